"""Gradient-boosted trees through the same seam as networks: from scratch, stateful by added trees, and as text alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.bundle import Bundle, OpenRelease, open_bundle, open_release
from evermodel.errors import IntegrityError, StateError, UseCaseError
from evermodel.records import Release
from evermodel.scores import ScoringModel
from evermodel.training.train import TrainResult, train
from evermodel.training.trees.model import TREES, read_booster
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case, with_trees

Make = Callable[..., Any]
OPTIONS = {"trees": 30, "added_trees": 5, "leaves": 7, "min_rows": 5}


@pytest.fixture(scope="module")
def forest(shop: UseCase) -> UseCase:
    """The small use case with every objective learned by trees."""
    return with_trees(shop, **OPTIONS)


@pytest.fixture(scope="module")
def fit(forest: UseCase, arguments: dict[str, Any]) -> Make:
    """Train one objective's trees: from scratch, or from `parent`."""

    def fit_trees(objective: str, rows: Any, out: Path, *, parent: Bundle | None = None) -> TrainResult:
        mode = "stateful" if parent else "from_scratch"
        return train(forest, objective, rows, mode=mode, parent=parent, out=str(out), **arguments)

    return fit_trees


@pytest.fixture(scope="module")
def champions(
    fit: Make, rows: Make, training_rows: Make, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    out, first = tmp_path_factory.mktemp("champion"), training_rows(rows(0, 400))
    return {name: open_bundle(fit(name, first, out).ref) for name in ("bought", "spent", "next")}


@pytest.mark.parametrize("objective", ["bought", "spent", "next"])
def test_trees_learn_score_by_kind_and_repeat(
    fit: Make, champions: dict[str, Bundle], rows: Make, training_rows: Make, tmp_path: Path, objective: str
) -> None:
    opened = champions[objective]
    model: ScoringModel = opened.scorer
    table = rows(0, 400)
    scores = opened.score(table)
    assert (scores.kind, scores.classes) == (model.kind, opened.classes)
    assert opened.loss(table) == pytest.approx(opened.manifest.final_loss, rel=1e-4)
    assert (opened.manifest.epochs, opened.manifest.rows_trained) == (30, 30 * 400)
    again = fit(objective, training_rows(table), tmp_path)
    assert again.ref.digest == opened.digest and again.losses[-1] < again.losses[0]
    if objective == "bought":
        assert ((scores.values > 0.5) == (table["label:bought"].to_numpy() > 0)).mean() > 0.85
    elif objective == "next":
        np.testing.assert_allclose(scores.values.sum(axis=1), 1.0)


def test_a_row_scores_the_same_bits_in_any_company(champions: dict[str, Bundle], rows: Make) -> None:
    table = rows(0, 100)
    for opened in champions.values():
        whole = opened.score(table).values
        np.testing.assert_array_equal(opened.score(table.slice(7, 5)).values, whole[7:12])
        assert opened.score(table.slice(0, 0)).values.shape == whole[:0].shape


@pytest.mark.parametrize("objective", ["bought", "spent"])
def test_a_stateful_round_adds_trees_to_the_parents_function(
    fit: Make, champions: dict[str, Bundle], rows: Make, training_rows: Make, tmp_path: Path, objective: str
) -> None:
    parent = champions[objective]
    second = training_rows(rows(400, 200, drifted=True), rehearsal=rows(0, 400).slice(50, 40))
    result = fit(objective, second, tmp_path, parent=parent)
    manifest, child = result.manifest, open_bundle(result.ref)
    assert manifest.step0_loss == manifest.parent_loss == parent.loss(second.train)
    assert manifest.not_restored == ("optimizer state: boosting has none",)
    assert (manifest.rows, manifest.rehearsal_rows, manifest.epochs, manifest.rows_trained) == (240, 40, 5, 1200)
    assert child.model["transforms"] == parent.model["transforms"], "thresholds can't follow moved transforms"
    assert child.loss(second.train) < parent.loss(second.train)
    before, after = (read_booster(bundle.texts[TREES]) for bundle in (parent, child))
    assert after.num_trees() == before.num_trees() + 5
    old = np.asarray(after.predict(np.zeros((1, after.num_feature())), num_iteration=30, raw_score=True))
    assert old == pytest.approx(np.asarray(before.predict(np.zeros((1, before.num_feature())), raw_score=True)))


def test_a_parent_that_is_not_restored_is_seen_at_step_0(
    fit: Make, champions: dict[str, Bundle], rows: Make, training_rows: Make, tmp_path: Path
) -> None:
    parent = champions["bought"]
    other = replace(parent, texts={TREES: read_booster(parent.texts[TREES]).model_to_string(num_iteration=10)})
    with pytest.raises(StateError, match="isn't the parent's function"):
        fit("bought", training_rows(rows(400, 200)), tmp_path, parent=other)
    assert not any(tmp_path.iterdir())


def test_a_new_class_is_refused_with_what_to_do(
    fit: Make, champions: dict[str, Bundle], rows: Make, training_rows: Make, tmp_path: Path
) -> None:
    second = training_rows(rows(400, 200, drifted=True))
    with pytest.raises(StateError, match="train from_scratch"):
        fit("next", second, tmp_path, parent=champions["next"])


def test_the_bundle_is_text_and_json_alone(champions: dict[str, Bundle], tmp_path: Path) -> None:
    ref = champions["bought"].ref
    files = {path.name: path for path in Path(ref.uri).iterdir()}
    assert files[TREES].read_text().startswith("tree\n")
    assert json.loads(files["model.json"].read_text())["scorer"] == "trees"
    for name in ("weights.safetensors", "state.safetensors"):
        assert files[name].stat().st_size < 100, "trees have no arrays"
    text = files[TREES].read_bytes()
    files[TREES].write_bytes(text.replace(b"leaf_value", b"leaf_valua", 1))
    try:
        with pytest.raises(IntegrityError, match=r"trees\.txt"):
            open_bundle(ref)
    finally:
        files[TREES].write_bytes(text)
    files[TREES].rename(tmp_path / TREES)
    try:
        with pytest.raises(IntegrityError, match="is missing"):
            open_bundle(ref)
    finally:
        (tmp_path / TREES).rename(files[TREES])


def test_trees_are_asked_for_a_gpu(champions: dict[str, Bundle]) -> None:
    bundle = champions["bought"]
    release = Release(
        use_case="shop",
        bundles=(bundle.ref,),
        weights={"bought": 1.0},
        cursor=bundle.manifest.cursor,
        created=bundle.manifest.cursor,
        home=bundle.ref.uri,
    )
    assert isinstance(open_release(release), OpenRelease)
    with pytest.raises(StateError, match="CPU only"):
        open_release(release, device="cuda")


def test_patience_keeps_the_best_number_of_trees(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path
) -> None:
    tree = with_trees(shop, trees=300, min_rows=5).model_dump(by_alias=True)
    tree["training"] |= {"patience": 3}
    case = UseCase.model_validate(tree)
    result = train(
        case, "bought", training_rows(rows(0, 300)), mode="from_scratch", parent=None, out=str(tmp_path), **arguments
    )
    kept = read_booster(open_bundle(result.ref).texts[TREES]).num_trees()
    assert kept < len(result.losses) < 300 and result.manifest.rows < 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"kind": "gbt", "hidden": [8]}}, "hidden has no effect on a gbt"),
        ({"model": {"kind": "gbt", "options": {"tres": 5}}}, "did you mean 'trees'"),
        ({"model": {"kind": "gbt", "options": {"leaves": 1}}}, "options.leaves"),
        ({"model": {"kind": "gbt"}, "loss": "focal"}, "loss of a gbt"),
        ({"model": {"kind": "gbtt"}}, "did you mean 'gbt'"),
    ],
)
def test_settings_without_effect_are_refused_when_the_file_is_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UseCaseError, match=message):
        make_use_case(
            fields={"user": "string", "at": "timestamp", "x": {}, "y": "int"},
            features={"x": {}},
            labels={"y": {}},
            objectives={"y": {"label": "y", **change}},
        )


def test_unknown_values_and_nulls_are_answered(champions: dict[str, Bundle], rows: Make) -> None:
    blank = rows(0, 1)
    for name in ("amount", "age", "late", "city", "shop", "hour"):
        place = blank.column_names.index(name)
        blank = blank.set_column(place, name, pa.nulls(1, blank.schema.field(place).type))
    for opened in champions.values():
        assert opened.score(blank).finite.all()


def test_a_use_case_with_trees_travels_as_json(forest: UseCase) -> None:
    assert UseCase.model_validate_json(forest.model_dump_json()) == forest
