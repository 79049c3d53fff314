"""A packed model: pack, verify, open → `.score(rows)`. Training opens the parent with it, evaluation scores it, serving wraps it.

    weights.safetensors   a network's parameters and buffers
    state.safetensors     optimizer moments, generator states: what a stateful round continues from
    trees.txt             gradient-boosted trees in LightGBM's text format; only in a bundle of that kind
    model.json            the scorer's kind, features, model, task (label, loss, classes) and fitted transforms
    training.json         the training manifest, and the scalars of the training state
    manifest.json         format version; name, size and sha256 of the files above. Written last: it is the commit
    timing.json           seconds of optimisation; beside the manifest, since wall-clock would change the digest

A bundle's digest is the sha256 of manifest.json. All bytes are verified before any of them is parsed, and the verified
bytes are the ones that are parsed. The folder is named by the digest, so packing the same model twice gives one bundle.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from evermodel import storage
from evermodel.errors import ConflictError, IntegrityError, StateError, nearest
from evermodel.failpoint import failpoint
from evermodel.records import BundleRef, Release, TrainingManifest, canonical_json, sha256
from evermodel.scores import Scores, ScoringModel, combine

FORMAT = 1
OPTIONAL = ("trees.txt",)
FILES = ("model.json", "state.safetensors", "training.json", "weights.safetensors")
MANIFEST, TIMING = "manifest.json", "timing.json"
MANIFEST_BYTES = 65_536  # a manifest has a few hundred
MAX_BYTES = 2**31

#: What `model.json` may name as its scorer: nothing else is imported, so a bundle can't bring code along.
SCORERS = {
    "torch": "evermodel.training.torch.model:NetworkModel",
    "trees": "evermodel.training.trees.model:TreeModel",
    "evermodel.training.scorer:Scorer": "evermodel.training.torch.model:NetworkModel",  # as version 0.1 named it
}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle. `model` and `state` are JSON trees, `weights` and `moments` arrays, `texts` the text files."""

    ref: BundleRef
    manifest: TrainingManifest
    model: Mapping[str, Any]
    state: Mapping[str, Any]
    weights: Arrays
    moments: Arrays
    num_bytes: int
    scorer: ScoringModel
    texts: Mapping[str, str] = field(default_factory=dict)

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
        """The rows' scores; a row's score doesn't depend on the other rows, but for rounding (1e-6).

        DataError if a feature's column is missing.
        """
        return self.scorer.score(self.scorer.encode(rows))

    def loss(self, rows: pa.Table) -> float:
        """Mean training loss in eval mode on the labelled rows; StateError if there are none."""
        return self.scorer.loss(rows)


@dataclass(frozen=True)
class OpenRelease:
    """A release's bundles, open, by objective: a `ServableRelease`."""

    release: Release
    bundles: Mapping[str, Bundle]

    @property
    def bundle_digests(self) -> dict[str, str]:
        return {name: bundle.digest for name, bundle in self.bundles.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the category objective; empty if there is none."""
        return next((bundle.classes for bundle in self.bundles.values() if bundle.classes), ())

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        """Every objective's scores of the rows. Objectives with equal transforms share one encoding."""
        encoded: dict[str, Any] = {}
        found: dict[str, Scores] = {}
        for name, bundle in self.bundles.items():
            like = self._same_encoding[name]
            if like not in encoded:
                encoded[like] = bundle.scorer.encode(rows)
            found[name] = bundle.scorer.score(encoded[like])
        return found

    @cached_property
    def _same_encoding(self) -> dict[str, str]:
        """Objective → the first objective that encodes rows by the same transforms."""
        ways = {
            name: (bundle.model["scorer"], bundle.model.get("transforms", name))
            for name, bundle in self.bundles.items()
        }
        return {name: next(other for other in ways if ways[other] == way) for name, way in ways.items()}

    def score(self, rows: pa.Table, weights: Mapping[str, float] | None = None) -> Scores:
        """Σ weight × objective's score, by the release's weights if none are given. See `scores.combine`."""
        return combine(self.scores(rows), self.release.weights if weights is None else weights)


def pack(
    out: str,
    *,
    objective: str,
    model: Mapping[str, Any],
    weights: Arrays,
    state: Mapping[str, Any],
    moments: Arrays,
    manifest: TrainingManifest,
    texts: Mapping[str, str] | None = None,
) -> BundleRef:
    """Write a bundle below `out`, in a folder named by its digest. A crash before the last write leaves no bundle.

    Same content, same digest: `manifest.seconds` goes beside it. StateError if a number isn't finite.
    """
    record = manifest.model_dump(mode="json", exclude={"seconds"})
    files = {
        "model.json": _json(model),
        "training.json": _json({"manifest": record, "state": dict(state)}),
        "weights.safetensors": _tensors(weights),
        "state.safetensors": _tensors(moments),
        **{name: text.encode() for name, text in (texts or {}).items()},
    }
    names = (*FILES, *(name for name in OPTIONAL if name in files))
    entries = [{"name": name, "size": len(files[name]), "sha256": sha256(files[name])} for name in names]
    text = canonical_json({"format": FORMAT, "files": entries}).encode()
    ref = BundleRef(objective=objective, uri=storage.join(out, sha256(text)[:16]), digest=sha256(text))
    failpoint("bundle.pack.start")
    for name in names:
        storage.write_bytes(storage.join(ref.uri, name), files[name])
        failpoint(f"bundle.pack.{name}")
    storage.write_text(storage.join(ref.uri, TIMING), canonical_json({"seconds": manifest.seconds}))
    with suppress(ConflictError):  # the same bundle was packed before: the folder is named by the digest
        storage.create_bytes(storage.join(ref.uri, MANIFEST), text)
    failpoint("bundle.pack.committed")
    return ref


def verify(ref: BundleRef, *, max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
    """The bytes of each file, each checked against the digest in `ref`. Nothing is parsed before it is verified.

    IntegrityError, with the file and the reason, if the bundle is truncated, changed or too large, or if a file is missing
    or unknown.
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
    """Verify, then parse. IntegrityError if the bytes differ, StateError if the model can't be built from them."""
    contents = verify(ref, max_bytes=max_bytes)
    try:
        model, training = json.loads(contents["model.json"]), json.loads(contents["training.json"])
        weights = safetensors.numpy.load(contents["weights.safetensors"])
        moments = safetensors.numpy.load(contents["state.safetensors"])
        manifest = TrainingManifest.model_validate({**training["manifest"], "seconds": _seconds(ref.uri)})
        texts = {name: contents[name].decode() for name in OPTIONAL if name in contents}
        scorer: ScoringModel = _scorer(model["scorer"])(model, weights, texts)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise StateError(f"bundle {ref.uri} can't be opened by this version: {error!r}") from error
    if model["objective"] != ref.objective:
        raise IntegrityError(f"{ref.uri} is a bundle of objective {model['objective']!r}, not {ref.objective!r}")
    num_bytes = sum(map(len, contents.values()))
    return Bundle(ref, manifest, model, training["state"], weights, moments, num_bytes, scorer, texts)


def open_release(release: Release, *, device: str = "cpu") -> OpenRelease:
    """Open every bundle of a release, to answer on a device. StateError if a model can't be there."""
    opened = OpenRelease(release, {ref.objective: open_bundle(ref) for ref in release.bundles})
    if device != "cpu":
        for bundle in opened.bundles.values():
            bundle.scorer.to(device)
    return opened


def _entries(where: str, text: bytes) -> dict[str, tuple[int, str]]:
    """name → (size, sha256) of a manifest whose own digest is verified."""
    try:
        tree = json.loads(text)
        version, files = tree["format"], tree["files"]
        entries = {str(file["name"]): (int(file["size"]), str(file["sha256"])) for file in files}
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where} isn't a bundle manifest: {error!r}") from None
    if version != FORMAT:
        raise IntegrityError(f"{where} has format {version}; this version reads {FORMAT}")
    for name in entries:
        if name not in (*FILES, *OPTIONAL):  # anything else, above all a path out of the folder
            raise IntegrityError(f"{where} names {name!r}; a bundle holds {', '.join((*FILES, *OPTIONAL))}")
    if missing := [name for name in FILES if name not in entries]:
        raise IntegrityError(f"{where} doesn't name {missing[0]}")
    return entries


def _check_folder(uri: str, entries: Mapping[str, tuple[int, str]], *, max_bytes: int) -> None:
    """Check names and sizes before any file is read."""
    if (total := sum(size for size, _ in entries.values())) > max_bytes:
        raise IntegrityError(f"bundle {uri} has {total} bytes; at most {max_bytes} are read")
    present = {storage.Uri.parse(path).relative_to(uri) for path in storage.list_files(uri)}
    if missing := sorted(set(entries) - present):
        raise IntegrityError(f"bundle {uri}: {missing[0]} is missing")
    if extra := sorted(present - set(entries) - {MANIFEST, TIMING}):
        raise IntegrityError(f"bundle {uri} holds {extra[0]!r}, which its manifest doesn't name")
    for name, (size, _) in entries.items():
        if (found := storage.size(storage.join(uri, name))) != size:
            raise IntegrityError(f"{uri}/{name} has {found} bytes; its manifest says {size}")


def _seconds(uri: str) -> float:
    """Seconds of optimisation; 0 if the record beside the bundle is missing or unreadable, since nothing depends on it."""
    where = storage.join(uri, TIMING)
    if not storage.exists(where):
        return 0.0
    try:
        return float(json.loads(storage.read_bytes(where, limit=1024))["seconds"])
    except (IntegrityError, KeyError, TypeError, ValueError):
        return 0.0


def _scorer(kind: str) -> Any:
    """The class of a kind of scorer. StateError if the kind isn't in `SCORERS`."""
    if kind not in SCORERS:
        raise StateError(f"the scorer {kind!r} isn't one that this version opens; {nearest(kind, SCORERS)}")
    module, _, name = SCORERS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def _tensors(arrays: Arrays) -> bytes:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise StateError(f"{name!r} holds nan or infinite numbers: the model can't be packed")
    ordered = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    data: bytes = safetensors.numpy.save(ordered)
    return data


def _json(tree: Mapping[str, Any]) -> bytes:
    return canonical_json(tree).encode()


__all__ = ["Bundle", "OpenRelease", "open_bundle", "open_release", "pack", "verify"]
