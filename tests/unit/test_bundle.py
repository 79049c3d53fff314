"""Bundles: verified before they are parsed, scored the same in any company, opened without the rest of the house."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from evermodel import bundle
from evermodel.bundle import FILES, OpenRelease, open_bundle, open_release, pack, verify
from evermodel.errors import DataError, IntegrityError, StateError
from evermodel.features.transforms import Transforms, fit
from evermodel.records import BundleRef, Release, TrainingManifest, Window, canonical_json, sha256
from evermodel.training.task import resolve
from evermodel.training.torch import state
from evermodel.training.torch.loop import Schedule, make_learner
from evermodel.training.torch.modules import build
from tests.support.use_cases import make_use_case

CASE = make_use_case(
    name="pair",
    fields={"user": "string", "time": "timestamp", "x": {}, "c": "string", "y": "int", "v": {}, "k": "string"},
    source={"name": "events", "event_time": {"field": "time"}},
    labels={"y": {"delay": "1d"}, "v": {"type": "number", "delay": "1d"}, "k": {"type": "category", "delay": "1d"}},
    features={"x": {}, "c": {"encode": "embed"}},
    objectives={
        "y": {"label": "y", "model": {"hidden": [33, 17]}},
        "v": {"label": "v", "weight": 0.5, "model": {"kind": "linear"}, "label_scale": 3},
        "k": {"label": "k", "model": {"kind": "two_tower", "hidden": [9]}},
    },
    monitoring={"window": "7d"},
)
TIME = datetime(2026, 1, 1, tzinfo=UTC)
Packed = Callable[..., BundleRef]


def table(count: int = 300) -> pa.Table:
    rng = np.random.default_rng(0)
    letters = rng.choice(["a", "b", "c"], count)
    columns = {"x": rng.normal(size=count), "c": letters, "label:y": rng.integers(0, 2, count).astype(float)}
    return pa.table({**columns, "label:v": rng.normal(size=count), "label:k": letters})


def packed(out: Path, objective: str = "y", *, seed: int = 0, seconds: float = 1.5) -> BundleRef:
    case, rows = CASE, table()
    task, transforms = resolve(case, objective, rows), fit(case, objective, rows)
    model = case.objective(objective).model
    module = build(model, transforms.spec, task.outputs, seed=seed)
    learner = make_learner(module, optimizer="adamw", weight_decay=0, schedule=Schedule("constant", 0.1, 1), seed=0)
    moments, scalars = state.save(learner)
    manifest = TrainingManifest(
        use_case="pair", objective=objective, mode="from_scratch", rows=300, epochs=1, rows_trained=300, row_digest="r",
        windows=(Window(start=TIME, end=TIME.replace(month=2)),), data_version="d", config_digest="c", features=("x", "c"),
        code_version="1", seed=0, seconds=seconds, final_loss=0.5, cursor=TIME,
    )  # fmt: skip
    tree = {"scorer": "torch", "objective": objective, "model": model.model_dump(mode="json")}
    tree |= {"task": task.to_dict(), "transforms": transforms.to_dict()}
    weights = state.weights_of(module)
    return pack(
        str(out), objective=objective, model=tree, weights=weights, state=scalars, moments=moments, manifest=manifest
    )


@pytest.fixture
def ref(tmp_path: Path) -> BundleRef:
    return packed(tmp_path / "bundles")


def resealed(ref: BundleRef, change: Callable[[dict[str, Any]], None]) -> BundleRef:
    """A bundle whose manifest was rewritten together with the ref: what a forger would do."""
    path = Path(ref.uri) / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    text = canonical_json(tree).encode()
    path.write_bytes(text)
    return ref.model_copy(update={"digest": sha256(text)})


def test_it_opens_as_it_was_packed(ref: BundleRef) -> None:
    opened = open_bundle(ref)
    assert (opened.objective, opened.digest, opened.manifest.seconds) == ("y", ref.digest, 1.5)
    assert opened.score(table()).values.shape == (300,) and opened.classes == ()
    assert opened.num_bytes == sum((Path(ref.uri) / name).stat().st_size for name in FILES)
    assert set(opened.moments) == {"random.shuffle", "random.noise"}
    assert opened.loss(table()) == pytest.approx(float(-np.log(_right(opened.score(table()).values))), rel=1e-5)


def _right(scores: np.ndarray[Any, Any]) -> Any:
    """The geometric mean of the probability given to what happened."""
    label = table()["label:y"].to_numpy()
    return np.exp(np.log(np.where(label == 1, scores, 1 - scores)).mean())


def test_the_digest_is_of_the_content_not_of_the_clock(tmp_path: Path) -> None:
    one, again, other = packed(tmp_path / "a"), packed(tmp_path / "b", seconds=9.0), packed(tmp_path / "a", seed=1)
    assert one.digest == again.digest != other.digest
    assert packed(tmp_path / "a") == one


@pytest.mark.parametrize("objective", ["y", "v", "k"])
def test_a_score_does_not_depend_on_the_other_rows(tmp_path: Path, objective: str) -> None:
    """The same rows in the same order: the same bits. Among other rows: the same but for rounding."""
    opened, rows = open_bundle(packed(tmp_path, objective)), table()
    whole = opened.score(rows).values
    np.testing.assert_array_equal(opened.score(rows).values, whole)
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_allclose(opened.score(rows.take(pa.array(order))).values, whole[order], rtol=1e-6, atol=1e-6)
    for size in (1, 7, 64, 65):
        parts = [opened.score(rows.slice(start, size)).values for start in range(0, 300, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6, atol=1e-6)
    assert opened.score(rows.slice(0, 0)).values.shape == whole[:0].shape


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_truncated_changed_or_missing_file_is_named(ref: BundleRef, name: str) -> None:
    path = Path(ref.uri) / name
    data = path.read_bytes()
    changed = bytes([data[0] ^ 1]) + data[1:]
    for bad in (data[:-1], b"", data + b" ", changed):
        path.write_bytes(bad)
        with pytest.raises(IntegrityError, match=name):
            verify(ref)
    path.unlink()
    with pytest.raises(IntegrityError, match=name):
        open_bundle(ref)
    path.write_bytes(data)
    assert set(verify(ref)) == set(FILES)


def test_an_additional_file_is_named(ref: BundleRef) -> None:
    (Path(ref.uri) / "extra.py").write_text("print('run me')")
    with pytest.raises(IntegrityError, match=r"extra\.py"):
        open_bundle(ref)


def test_an_oversized_bundle_isnt_read(ref: BundleRef, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = bundle.storage.read_bytes
    monkeypatch.setattr(bundle.storage, "read_bytes", lambda uri, **limit: read.append(str(uri)) or real(uri, **limit))
    with pytest.raises(IntegrityError, match="at most 1000 are read"):
        verify(ref, max_bytes=1000)
    (Path(ref.uri) / "weights.safetensors").write_bytes(b"0" * 1_000_000)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors has 1000000 bytes"):
        verify(ref)
    assert {Path(path).name for path in read} == {"manifest.json"}
    (Path(ref.uri) / "manifest.json").write_bytes(b" " * 100_000)
    with pytest.raises(IntegrityError, match="at most 65536 are read"):
        verify(ref)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["files"].append({"name": "../../secret", "size": 1, "sha256": ""}), r"\.\./\.\./secret"),
        (lambda tree: tree["files"].append({"name": "/etc/passwd", "size": 1, "sha256": ""}), "/etc/passwd"),
        (lambda tree: tree["files"].pop(), "doesn't name weights"),
        (lambda tree: tree.update(format=99), "format 99"),
        (lambda tree: tree.pop("files"), "isn't a bundle manifest"),
    ],
)
def test_a_forged_manifest_is_refused(ref: BundleRef, change: Any, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        verify(resealed(ref, change))


@pytest.mark.parametrize(
    "scorer",
    ["os:system", "evermodel_evil.x:y", "evermodel.storage:read_bytes", "evermodel.training.torch.model:NetworkModel"],
)
def test_a_bundle_cant_bring_code_along(ref: BundleRef, scorer: str) -> None:
    path = Path(ref.uri) / "model.json"
    data = canonical_json({**json.loads(path.read_text()), "scorer": scorer}).encode()
    path.write_bytes(data)

    def seal(tree: dict[str, Any]) -> None:
        entry = next(file for file in tree["files"] if file["name"] == "model.json")
        entry.update(size=len(data), sha256=sha256(data))

    with pytest.raises(StateError, match="isn't one that this version opens"):
        open_bundle(resealed(ref, seal))


def test_another_objectives_ref_and_a_bad_number_are_refused(ref: BundleRef, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="'y', not 'v'"):
        open_bundle(ref.model_copy(update={"objective": "v"}))
    opened = open_bundle(ref)
    bad = {name: np.full_like(value, np.nan) for name, value in opened.weights.items()}
    with pytest.raises(StateError, match="nan or infinite"):
        pack(
            str(tmp_path / "bad"), objective="y", model=opened.model, weights=bad, state=opened.state, moments={},
            manifest=opened.manifest,
        )  # fmt: skip
    assert not (tmp_path / "bad").exists()


def test_timing_is_beside_the_digest_and_may_be_gone(ref: BundleRef) -> None:
    timing = Path(ref.uri) / "timing.json"
    timing.write_text("not json")
    assert open_bundle(ref).manifest.seconds == 0
    timing.unlink()
    assert open_bundle(ref).manifest.seconds == 0


def test_an_unfinished_packing_is_no_bundle_and_is_finished_by_packing_again(ref: BundleRef, tmp_path: Path) -> None:
    (Path(ref.uri) / "manifest.json").unlink()
    (Path(ref.uri) / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(IntegrityError, match="wasn't finished"):
        open_bundle(ref)
    assert packed(tmp_path / "bundles") == ref and open_bundle(ref)


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    refs = tuple(packed(tmp_path, objective) for objective in ("y", "v", "k"))
    weights = {"y": 1.0, "v": 0.5}
    return open_release(
        Release(use_case="pair", bundles=refs, weights=weights, cursor=TIME, created=TIME, home=str(tmp_path))
    )


def test_a_release_adds_up_its_objectives(release: OpenRelease) -> None:
    scores = {name: part.values for name, part in release.scores(table()).items()}
    np.testing.assert_allclose(release.score(table()).values, scores["y"] + 0.5 * scores["v"])
    np.testing.assert_allclose(release.score(table(), {"y": 0.0, "v": 2.0}).values, 2 * scores["v"])
    assert release.score(table(), {"k": 1.0}).values.shape == (300, 3) and release.classes == ("a", "b", "c")
    with pytest.raises(DataError, match=r"did you mean 'y'|valid: k, v, y"):
        release.score(table(), {"yy": 1.0})
    with pytest.raises(DataError, match="don't rank the same classes"):
        release.score(table(), {"y": 1.0, "k": 1.0})
    with pytest.raises(DataError, match="at least one"):
        release.score(table(), {})


def test_objectives_that_encode_alike_share_one_encoding(
    release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit what each gives by itself; one whose transforms differ encodes for itself."""
    rows, encoded = table(), []
    alone = {name: one.score(rows).values for name, one in release.bundles.items()}
    other = {
        **release.bundles["v"].model,
        "transforms": {**release.bundles["v"].model["transforms"], "indicators": ["x"]},
    }
    apart = OpenRelease(release.release, {**release.bundles, "v": replace(release.bundles["v"], model=other)})
    apply = Transforms.apply
    monkeypatch.setattr(Transforms, "apply", lambda self, given: encoded.append(1) or apply(self, given))
    for made, times in ((release, 1), (apart, 2)):
        encoded.clear()
        together = made.scores(rows)
        assert len(encoded) == times and all((together[name].values == alone[name]).all() for name in alone)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_gpu_that_isnt_there_is_an_error(release: OpenRelease) -> None:
    with pytest.raises(StateError, match="can't be put on 'cuda'"):
        open_release(release.release, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_scores_as_a_processor_does_in_any_company(release: OpenRelease) -> None:
    rows, there = table(), open_release(release.release, device="cuda")
    here, found = release.scores(rows), there.scores(rows)
    for name, values in found.items():
        np.testing.assert_allclose(values.values, here[name].values, atol=1e-5)
        again = there.scores(rows.slice(7, 5))[name].values
        np.testing.assert_allclose(again, values.values[7:12], rtol=1e-6, atol=1e-6)


def test_a_model_that_answers_another_shape_is_an_error(ref: BundleRef) -> None:
    opened = open_bundle(ref)

    class Wrong(nn.Module):
        def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            return dense.sum()

    opened.scorer.module = Wrong()  # type: ignore[attr-defined]
    with pytest.raises(StateError, match="the model answers"):
        opened.score(table())


@pytest.mark.process
def test_it_scores_without_ray_mlflow_feast_or_evidently(ref: BundleRef) -> None:
    code = f"""
import sys
for name in ("ray", "mlflow", "feast", "evidently", "kfp", "sklearn", "sqlalchemy"):
    sys.modules[name] = None
import pyarrow as pa
from evermodel.records import BundleRef
from evermodel.bundle import open_bundle
opened = open_bundle(BundleRef(objective="y", uri={ref.uri!r}, digest={ref.digest!r}))
print(opened.score(pa.table({{"x": [0.5], "c": ["a"]}})).values[0])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    expected = open_bundle(ref).score(pa.table({"x": [0.5], "c": ["a"]})).values[0]
    assert float(answer.stdout) == expected


def test_verifying_needs_no_torch(ref: BundleRef) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from evermodel.records import BundleRef
from evermodel.bundle import verify
verify(BundleRef(objective="y", uri={ref.uri!r}, digest={ref.digest!r}))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
