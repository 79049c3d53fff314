"""A packed model: pack, verify, open → `.score(rows)`. Training opens the parent with it, evaluation scores it, serving wraps it.

    weights.safetensors   the module's parameters and buffers
    state.safetensors     optimizer moments, generator states: what a stateful turn goes on from
    model.json            the scorer's import path, features, model, task (label, loss, classes) and fitted transforms
    training.json         the training manifest, and the scalars of the training state
    manifest.json         format version; name, size and sha256 of the four above. Created last: it is the commit
    timing.json           seconds of optimisation; beside the manifest, since wall-clock would change the digest

A bundle's digest is the sha256 of manifest.json. Every byte is verified before any is parsed, and what was verified is
what is parsed. The folder is named by the digest, so packing the same model twice is one bundle.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from evermodel import storage
from evermodel.errors import ConflictError, DataError, IntegrityError, StateError, nearest
from evermodel.failpoint import failpoint
from evermodel.records import BundleRef, Release, TrainingManifest, canonical_json, sha256

FORMAT = 1
FILES = ("model.json", "state.safetensors", "training.json", "weights.safetensors")
MANIFEST, TIMING = "manifest.json", "timing.json"
MANIFEST_BYTES = 65_536  # a manifest has a few hundred
MAX_BYTES = 2**31

Arrays = Mapping[str, NDArray[Any]]
Scores = NDArray[np.float64]


class Scoring(Protocol):
    """What the import path in `model.json` must make of (model.json's tree, weights)."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    def score(self, rows: pa.Table) -> Scores: ...
    def loss(self, rows: pa.Table) -> float: ...


@runtime_checkable
class EncodingScorer(Scoring, Protocol):
    """One whose score is `answer(encode(rows))`, where `encode` depends on nothing but its transforms; it may move to a GPU."""

    def to(self, device: str) -> None: ...
    def encode(self, rows: pa.Table) -> Any: ...
    def answer(self, encoded: Any) -> Scores: ...


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle. `model` and `state` are the trees, `weights` and `moments` the arrays of its files."""

    ref: BundleRef
    manifest: TrainingManifest
    model: Mapping[str, Any]
    state: Mapping[str, Any]
    weights: Arrays
    moments: Arrays
    num_bytes: int
    scorer: Scoring

    @property
    def objective(self) -> str:
        return self.ref.objective

    @property
    def digest(self) -> str:
        return self.ref.digest

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns of a category's scores; none of a binary or number label."""
        return self.scorer.classes

    def score(self, rows: pa.Table) -> Scores:
        """Rows table → probability or predicted value float64[n]; float64[n, classes] of a category label.

        A row's score doesn't depend on the other rows. DataError where a feature's column is missing.
        """
        return self.scorer.score(rows)

    def loss(self, rows: pa.Table) -> float:
        """Mean training loss in eval mode on the labelled rows; StateError where there are none."""
        return self.scorer.loss(rows)


@dataclass(frozen=True)
class OpenRelease:
    """A release's bundles, open, by objective."""

    release: Release
    bundles: Mapping[str, Bundle]

    @property
    def classes(self) -> tuple[str, ...]:
        """Of its category objective; none where it has none."""
        return next((bundle.classes for bundle in self.bundles.values() if bundle.classes), ())

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        """Every objective's score of the rows. Objectives that encode alike share one encoding."""
        encoded: dict[str, Any] = {}
        found: dict[str, Scores] = {}
        for name, bundle in self.bundles.items():
            like = self._like.get(name)
            if like is None:
                found[name] = bundle.score(rows)
                continue
            scorer = cast(EncodingScorer, bundle.scorer)
            if like not in encoded:
                encoded[like] = scorer.encode(rows)
            found[name] = scorer.answer(encoded[like])
        return found

    @cached_property
    def _like(self) -> dict[str, str]:
        """Objective that encodes → the first one that does it by the same transforms."""
        ways = {
            name: (bundle.model["scorer"], bundle.model.get("transforms"))
            for name, bundle in self.bundles.items()
            if isinstance(bundle.scorer, EncodingScorer)
        }
        return {name: next(other for other in ways if ways[other] == way) for name, way in ways.items()}

    def score(self, rows: pa.Table, weights: Mapping[str, float] | None = None) -> Scores:
        """Σ weight × objective's score, float64[n] (float64[n, classes] of a category); the release's weights if None.

        DataError where a weight names no objective, or categories are to be added to something else.
        """
        return self.combine(self.scores(rows), weights)

    def combine(self, scores: Mapping[str, Scores], weights: Mapping[str, float] | None = None) -> Scores:
        """The same of scores that are there already."""
        chosen = self.release.weights if weights is None else weights
        for name in chosen:
            if name not in self.bundles:
                raise DataError(f"weight of {name!r}: the release has no such objective; {nearest(name, self.bundles)}")
        if len({self.bundles[name].classes for name in chosen}) > 1:
            raise DataError(
                f"the scores of {', '.join(sorted(chosen))} don't rank the same classes: no sum of them is one score"
            )
        parts = [weight * scores[name] for name, weight in chosen.items()]
        if not parts:
            raise DataError("a score needs the weight of at least one objective")
        return np.sum(parts, axis=0) if len(parts) > 1 else parts[0]


def pack(
    out: str,
    *,
    objective: str,
    model: Mapping[str, Any],
    weights: Arrays,
    state: Mapping[str, Any],
    moments: Arrays,
    manifest: TrainingManifest,
) -> BundleRef:
    """Write a bundle below `out`, in a folder named by its digest. A crash before the last write leaves no bundle.

    Same content, same digest: `manifest.seconds` goes beside it. StateError where a number isn't finite.
    """
    record = manifest.model_dump(mode="json", exclude={"seconds"})
    files = {
        "model.json": _json(model),
        "training.json": _json({"manifest": record, "state": dict(state)}),
        "weights.safetensors": _tensors(weights),
        "state.safetensors": _tensors(moments),
    }
    entries = [{"name": name, "size": len(files[name]), "sha256": sha256(files[name])} for name in FILES]
    text = canonical_json({"format": FORMAT, "files": entries}).encode()
    ref = BundleRef(objective=objective, uri=storage.join(out, sha256(text)[:16]), digest=sha256(text))
    failpoint("bundle.pack.start")
    for name in FILES:
        storage.write_bytes(storage.join(ref.uri, name), files[name])
        failpoint(f"bundle.pack.{name}")
    storage.write_text(storage.join(ref.uri, TIMING), canonical_json({"seconds": manifest.seconds}))
    with suppress(ConflictError):  # the same bundle was packed before: its digest is its name
        storage.create_bytes(storage.join(ref.uri, MANIFEST), text)
    failpoint("bundle.pack.committed")
    return ref


def verify(ref: BundleRef, *, max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
    """The bytes of each file, every one as the digest in `ref` promises. Nothing is parsed before it is verified.

    IntegrityError, with which file and why, of a bundle that is truncated, changed, too large, or lacks a file or has
    one too many.
    """
    where = storage.join(ref.uri, MANIFEST)
    if not storage.exists(where):
        raise IntegrityError(f"{ref.uri} holds no {MANIFEST}: there is no bundle, or its packing wasn't finished")
    text = storage.read_bytes(where, limit=MANIFEST_BYTES)
    if (found := sha256(text)) != ref.digest:
        raise IntegrityError(f"{where}: sha256 is {found}, the bundle's digest is {ref.digest}")
    entries = _entries(where, text)
    _check_folder(ref.uri, entries, max_bytes=max_bytes)
    contents: dict[str, bytes] = {}
    for name, (size, digest) in entries.items():
        data = storage.read_bytes(storage.join(ref.uri, name), limit=size)
        if len(data) != size:
            raise IntegrityError(f"{ref.uri}/{name} has {len(data)} bytes; its manifest says {size}")
        if (found := sha256(data)) != digest:
            raise IntegrityError(f"{ref.uri}/{name}: sha256 is {found}, its manifest says {digest}")
        contents[name] = data
    return contents


def open_bundle(ref: BundleRef, *, max_bytes: int = MAX_BYTES) -> Bundle:
    """Verify, then parse. IntegrityError of other bytes, StateError of a model that can't be put together again."""
    contents = verify(ref, max_bytes=max_bytes)
    try:
        model, training = json.loads(contents["model.json"]), json.loads(contents["training.json"])
        weights = safetensors.numpy.load(contents["weights.safetensors"])
        moments = safetensors.numpy.load(contents["state.safetensors"])
        manifest = TrainingManifest.model_validate({**training["manifest"], "seconds": _seconds(ref.uri)})
        scorer = _scorer(model["scorer"])(model, weights)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise StateError(f"bundle {ref.uri} can't be opened by this version: {error!r}") from error
    if model["objective"] != ref.objective:
        raise IntegrityError(f"{ref.uri} is a bundle of objective {model['objective']!r}, not {ref.objective!r}")
    num_bytes = sum(map(len, contents.values()))
    return Bundle(ref, manifest, model, training["state"], weights, moments, num_bytes, scorer)


def open_release(release: Release, *, device: str = "cpu") -> OpenRelease:
    """Open every bundle of a release, to answer on a device. StateError where one can't be there."""
    opened = OpenRelease(release, {ref.objective: open_bundle(ref) for ref in release.bundles})
    if device != "cpu":
        for name, bundle in opened.bundles.items():
            if not isinstance(bundle.scorer, EncodingScorer):
                raise StateError(f"{name}: the scorer {bundle.model['scorer']} answers on a CPU only")
            bundle.scorer.to(device)
    return opened


def _entries(where: str, text: bytes) -> dict[str, tuple[int, str]]:
    """name → (size, sha256) of a manifest whose own digest is verified."""
    try:
        tree = json.loads(text)
        version, files = tree["format"], tree["files"]
        entries = {str(file["name"]): (int(file["size"]), str(file["sha256"])) for file in files}
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where} is no bundle manifest: {error!r}") from None
    if version != FORMAT:
        raise IntegrityError(f"{where} has format {version}; this version reads {FORMAT}")
    for name in entries:
        if name not in FILES:  # anything else, a path that leads elsewhere above all
            raise IntegrityError(f"{where} names {name!r}; a bundle holds {', '.join(FILES)}")
    if missing := [name for name in FILES if name not in entries]:
        raise IntegrityError(f"{where} doesn't name {missing[0]}")
    return entries


def _check_folder(uri: str, entries: Mapping[str, tuple[int, str]], *, max_bytes: int) -> None:
    """Names and sizes, before a byte is read."""
    if (total := sum(size for size, _ in entries.values())) > max_bytes:
        raise IntegrityError(f"bundle {uri} has {total} bytes; at most {max_bytes} are read")
    present = {_relative(uri, path) for path in storage.list_files(uri)}
    if missing := sorted(set(entries) - present):
        raise IntegrityError(f"bundle {uri}: {missing[0]} is missing")
    if extra := sorted(present - set(entries) - {MANIFEST, TIMING}):
        raise IntegrityError(f"bundle {uri} holds {extra[0]!r}, which its manifest doesn't name")
    for name, (size, _) in entries.items():
        if (found := storage.size(storage.join(uri, name))) != size:
            raise IntegrityError(f"{uri}/{name} has {found} bytes; its manifest says {size}")


def _relative(uri: str, path: str) -> str:
    root = storage.local_path(uri)
    head = str(root) if root is not None else uri.partition("?")[0].rstrip("/")
    return path.partition("?")[0][len(head) :].lstrip("/")


def _seconds(uri: str) -> float:
    """What the optimisation took; 0 where the record beside the bundle is gone or unreadable, since nothing hangs on it."""
    where = storage.join(uri, TIMING)
    if not storage.exists(where):
        return 0.0
    try:
        return float(json.loads(storage.read_bytes(where, limit=1024))["seconds"])
    except (IntegrityError, KeyError, TypeError, ValueError):
        return 0.0


def _scorer(path: str) -> Any:
    """Only a name in this package is called: a bundle can't bring code along."""
    module, _, name = path.partition(":")
    if not module.startswith("evermodel.") or not name.isidentifier():
        raise StateError(f"the scorer {path!r} isn't in the package evermodel")
    return getattr(importlib.import_module(module), name)


def _tensors(arrays: Arrays) -> bytes:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise StateError(f"{name!r} holds nan or infinite numbers: such a model isn't packed")
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    data: bytes = safetensors.numpy.save(ordered)
    return data


def _json(tree: Mapping[str, Any]) -> bytes:
    return canonical_json(tree).encode()


__all__: Sequence[str] = ("Bundle", "OpenRelease", "Scoring", "open_bundle", "open_release", "pack", "verify")
