"""`train`: a warm start that proves itself, digests that repeat, and manifests that say what was done."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.bundle import Bundle, open_bundle
from evermodel.clock import micros
from evermodel.code_version import code_version
from evermodel.errors import DataError, InputError, StateError
from evermodel.features.encoders import Vocabulary
from evermodel.features.transforms import fit
from evermodel.training.torch.model import NetworkModel
from evermodel.training.train import train
from evermodel.use_case import UseCase

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def champions(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    out = str(tmp_path_factory.mktemp("champion"))
    first = training_rows(rows(0, 400))
    return {
        name: open_bundle(train(shop, name, first, mode="from_scratch", parent=None, out=out, **arguments).ref)
        for name in ("bought", "spent", "next")
    }


@pytest.fixture(scope="module")
def second(rows: Make, training_rows: Make) -> Any:
    """Drifted rows: amounts moved, a constant column varies, new cities, nulls, and rehearsed rows."""
    return training_rows(rows(400, 200, drifted=True), rehearsal=rows(0, 400).slice(50, 40))


@pytest.mark.parametrize("objective", ["bought", "spent", "next"])
def test_step_0_is_the_champion(
    shop: UseCase, champions: dict[str, Bundle], second: Any, arguments: dict[str, Any], tmp_path: Path, objective: str
) -> None:
    parent = champions[objective]
    result = train(shop, objective, second, mode="stateful", parent=parent, out=str(tmp_path), **arguments)
    manifest = result.manifest
    assert manifest.step0_loss == pytest.approx(manifest.parent_loss, abs=1e-5)
    assert manifest.parent_loss == parent.loss(second.train)
    assert manifest.parent == parent.digest and manifest.mode == "stateful" and manifest.reason is None
    assert (manifest.rows, manifest.rehearsal_rows, manifest.rows_trained) == (240, 40, 480)
    assert manifest.row_digest == second.row_digest
    child = open_bundle(result.ref)
    if objective != "next":  # there the child is asked about more rows, those of the new classes
        assert child.loss(second.train) < parent.loss(second.train)
    assert child.state["step"] == parent.state["step"] + 2 * 8
    assert child.state["cursor"] == micros(second.cursor)
    if objective == "next":
        assert child.classes[: len(parent.classes)] == parent.classes and {"rome", "oslo"} <= set(child.classes)


def spoiled(parent: Bundle, part: str, shop: UseCase, rows: Make) -> Bundle:
    """A parent whose restored state lacks one part, while serving still scores with all of it."""
    if part == "weights":
        return replace(parent, weights={name: value * 1.01 for name, value in parent.weights.items()})
    scorer = copy.copy(parent.scorer)
    assert isinstance(scorer, NetworkModel)
    if part == "transforms":
        scorer.transforms = replace(
            scorer.transforms, numeric=fit(shop, "bought", rows(400, 200, drifted=True)).numeric
        )
    else:
        ids = tuple(
            replace(one, values=tuple(reversed(one.values))) if isinstance(one, Vocabulary) else one
            for one in scorer.transforms.ids
        )
        scorer.transforms = replace(scorer.transforms, ids=ids)
    scorer.loss = parent.scorer.loss  # type: ignore[method-assign]
    return replace(parent, scorer=scorer)


@pytest.mark.parametrize("part", ["weights", "transforms", "vocabularies"])
def test_what_isnt_restored_is_seen_at_step_0(
    shop: UseCase,
    champions: dict[str, Bundle],
    rows: Make,
    second: Any,
    arguments: dict[str, Any],
    tmp_path: Path,
    part: str,
) -> None:
    parent = spoiled(champions["bought"], part, shop, rows)
    with pytest.raises(StateError, match="isn't the parent's function"):
        train(shop, "bought", second, mode="stateful", parent=parent, out=str(tmp_path), **arguments)
    assert not any(tmp_path.iterdir())


def test_the_same_again_is_the_same_digest(
    shop: UseCase,
    champions: dict[str, Bundle],
    rows: Make,
    training_rows: Make,
    second: Any,
    arguments: dict[str, Any],
    tmp_path: Path,
) -> None:
    places = [str(tmp_path / name) for name in "ab"]
    first = training_rows(rows(0, 400))
    for mode, part, parent in (("from_scratch", first, None), ("stateful", second, champions["bought"])):
        made = [train(shop, "bought", part, mode=mode, parent=parent, out=place, **arguments) for place in places]
        assert made[0].ref.digest == made[1].ref.digest and made[0].ref.uri != made[1].ref.uri
    other = train(shop, "bought", first, mode="from_scratch", parent=None, out=places[0], seed=7, **arguments)
    assert other.ref.digest != champions["bought"].digest and other.manifest.seed == 7


def test_two_rounds_give_what_one_gives(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path, vary: Make
) -> None:
    """2 epochs, a bundle, and 2 more on the same rows give bit for bit what 4 epochs at once give."""
    same_rows = training_rows(rows(0, 200))
    four = vary(shop, epochs=4, scheduler="constant")
    two = vary(shop, epochs=2, scheduler="constant")
    whole = open_bundle(
        train(four, "bought", same_rows, mode="from_scratch", parent=None, out=str(tmp_path), **arguments).ref
    )
    half = open_bundle(
        train(two, "bought", same_rows, mode="from_scratch", parent=None, out=str(tmp_path), **arguments).ref
    )
    again = open_bundle(
        train(two, "bought", same_rows, mode="stateful", parent=half, out=str(tmp_path), **arguments).ref
    )
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(value, again.weights[name])
    for name, value in whole.moments.items():
        np.testing.assert_array_equal(value, again.moments[name])


def test_from_scratch_beside_a_champion_says_why(
    shop: UseCase, champions: dict[str, Bundle], second: Any, arguments: dict[str, Any], tmp_path: Path
) -> None:
    call = dict(mode="from_scratch", parent=champions["bought"], out=str(tmp_path), **arguments)
    manifest = train(shop, "bought", second, reason="the features changed", **call).manifest
    assert (manifest.reason, manifest.parent) == ("the features changed", champions["bought"].digest)
    assert manifest.step0_loss is None and manifest.epochs == shop.training.epochs
    assert manifest.code_version == code_version() and manifest.config_digest == shop.digest()
    assert manifest.features == ("amount", "age", "late", "city", "shop", "hour")


def test_a_parent_that_doesnt_fit_is_never_started_over_silently(
    shop: UseCase, champions: dict[str, Bundle], second: Any, arguments: dict[str, Any], tmp_path: Path, vary: Make
) -> None:
    def attempt(case: UseCase, parent: Bundle | None = champions["bought"]) -> None:
        train(case, "bought", second, mode="stateful", parent=parent, out=str(tmp_path), **arguments)

    with pytest.raises(StateError, match="needs a parent"):
        attempt(shop, None)
    with pytest.raises(StateError, match="model section"):
        attempt(vary(shop, objective="bought", model={"hidden": (16, 4)}))
    with pytest.raises(StateError, match="objective section"):
        attempt(vary(shop, objective="bought", loss="focal"))
    fewer = UseCase.model_validate({**shop.model_dump(), "features": shop.model_dump()["features"][1:]})
    with pytest.raises(StateError, match="features section"):
        attempt(fewer)
    with pytest.raises(StateError, match=r"adamw.*sgd"):
        attempt(vary(shop, optimizer="sgd"))
    late = replace(second, cursor=second.cursor - timedelta(days=1))
    with pytest.raises(StateError, match="before the parent's data cursor"):
        train(shop, "bought", late, mode="stateful", parent=champions["bought"], out=str(tmp_path), **arguments)


def test_a_learning_rate_of_its_own_is_constant_from_there_on(
    shop: UseCase, champions: dict[str, Bundle], second: Any, arguments: dict[str, Any], tmp_path: Path, vary: Make
) -> None:
    goes_on = train(shop, "bought", second, mode="stateful", parent=champions["bought"], out=str(tmp_path), **arguments)
    assert open_bundle(goes_on.ref).state["schedule"] == champions["bought"].state["schedule"]
    own = vary(shop, stateful={"epochs": 1, "learning_rate": 0.002})
    result = train(own, "bought", second, mode="stateful", parent=champions["bought"], out=str(tmp_path), **arguments)
    schedule = open_bundle(result.ref).state["schedule"]
    assert (schedule["kind"], schedule["learning_rate"], result.manifest.epochs) == ("constant", 0.002, 1)


def test_patience_validates_on_the_newest_share(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path, vary: Make
) -> None:
    case = vary(shop, patience=1, epochs=50, learning_rate=0.05)
    manifest = train(
        case, "bought", training_rows(rows(0, 400)), mode="from_scratch", parent=None, out=str(tmp_path), **arguments
    ).manifest
    assert manifest.rows == 360 and manifest.epochs < 50
    assert manifest.rows_trained == 360 * manifest.epochs


def set_label(table: pa.Table, label: str, values: Any) -> pa.Table:
    name = f"label:{label}"
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_unlabelled_rows_are_left_out_and_counted_out(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path
) -> None:
    table = rows(0, 100)
    holes = set_label(table, "bought", [None if index % 4 == 0 else float(index % 2) for index in range(100)])
    call = dict(mode="from_scratch", parent=None, out=str(tmp_path), **arguments)
    manifest = train(shop, "bought", training_rows(holes), **call).manifest
    assert (manifest.rows, manifest.rows_trained) == (75, 150)
    assert manifest.row_digest != training_rows(holes).row_digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0] * 50, "all 50 labels 'bought' are 1"),
        ([None] * 50, "none of 50 rows has a label"),
        ([float("nan")] + [1.0, 0.0] * 24 + [1.0], "nan or infinite in 1 of 50"),
        ([2.0] + [1.0, 0.0] * 24 + [1.0], "holds 2.0"),
    ],
)
def test_labels_that_cant_be_learned_from(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path, values: Any, message: str
) -> None:
    table = set_label(rows(0, 50), "bought", pa.array(values, pa.float64()))
    with pytest.raises(DataError, match=message):
        train(shop, "bought", training_rows(table), mode="from_scratch", parent=None, out=str(tmp_path), **arguments)


def test_rows_from_after_now_are_refused(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path
) -> None:
    part = training_rows(rows(0, 50))
    early = {**arguments, "now": part.windows[0].start + timedelta(minutes=10)}
    with pytest.raises(DataError, match="after now"):
        train(shop, "bought", part, mode="from_scratch", parent=None, out=str(tmp_path), **early)


def test_a_loss_that_doesnt_fit_the_label_is_named(
    shop: UseCase, rows: Make, training_rows: Make, arguments: dict[str, Any], tmp_path: Path, vary: Make
) -> None:
    case = vary(shop, objective="bought", loss="mse")
    with pytest.raises(InputError, match="'mse' doesn't fit a binary label"):
        train(
            case, "bought", training_rows(rows(0, 50)), mode="from_scratch", parent=None, out=str(tmp_path), **arguments
        )
