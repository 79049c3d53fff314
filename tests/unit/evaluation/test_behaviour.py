import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import InputError
from evermodel.evaluation import behaviour
from evermodel.records import Check
from evermodel.scores import Scores
from evermodel.use_case import BehaviourTest, ColumnFeature, CustomFeature
from tests.support.scores import binary, category
from tests.unit.evaluation import small

ROWS = small.table(300)


def score_by_x(rows: pa.Table) -> Scores:
    return binary(small.by_x(rows))


def run(rows: pa.Table = ROWS, score: behaviour.ScoreRows = score_by_x, **test: object) -> Check:
    case = small.case(behaviour=(BehaviourTest(name="t", **test),))  # type: ignore[arg-type]
    (check,) = behaviour.run_tests(case, score, rows, rng=np.random.default_rng(0))
    return check


def test_invariance_holds_for_an_unused_feature_and_fails_for_a_used_one() -> None:
    assert run(kind="invariance", feature="z", set=5.0, tolerance=0.0).passed
    moved = run(kind="invariance", feature="x", set=5.0, tolerance=0.05)
    assert not moved.passed
    assert moved.value == pytest.approx(np.abs(small.by_x(ROWS) - 1 / (1 + np.exp(-15))).mean())
    assert "x set 5.0: the score must not move, and moves by" in moved.reason


def test_invariance_without_a_value_shuffles() -> None:
    assert run(kind="invariance", feature="z").passed
    assert not run(kind="invariance", feature="x").passed


@pytest.mark.parametrize(("expect", "share"), [("up", 0.0), ("down", 1.0)])
def test_direction_counts_the_rows_that_go_the_other_way(expect: str, share: float) -> None:
    found = run(kind="direction", feature="x", add=0.1, expect=expect, tolerance=0.1)
    assert (found.value, found.passed) == (share, share == 0.0)


def test_a_row_that_does_not_move_is_not_against_the_direction() -> None:
    assert run(kind="direction", feature="z", add=1.0, expect="up", tolerance=0.0).passed


def test_perturbation_measures_noise_in_standard_deviations() -> None:
    small_noise = run(kind="perturbation", feature="x", noise=0.001, tolerance=0.01)
    large_noise = run(kind="perturbation", feature="x", noise=1.0, tolerance=0.01)
    assert small_noise.passed and not large_noise.passed
    assert small_noise.value < large_noise.value  # type: ignore[operator]


def test_custom_is_called_with_score_and_rows() -> None:
    found = run(kind="custom", call="tests.unit.evaluation.custom_functions:scores_all_rows", level="enforce")
    assert (found.passed, found.level, found.reason) == (True, "enforce", "300 of 300 rows have a score")


def test_nulls_stay_null() -> None:
    rows = ROWS.set_column(3, "x", pa.array([None, 1.0] * 150))
    null_counts: list[int] = []

    def score(table: pa.Table) -> Scores:
        null_counts.append(table["x"].null_count)
        return score_by_x(table)

    run(rows=rows, score=score, kind="direction", feature="x", add=1.0, expect="up")
    assert null_counts == [150, 150]


def test_class_scores_move_by_total_variation() -> None:
    def score(rows: pa.Table) -> Scores:
        chance = (small.column(rows, "z") == 5.0).astype(float)
        return category(np.column_stack([chance, 1 - chance]), "ab")

    assert run(score=score, kind="invariance", feature="z", set=5.0).value == 1.0


def test_a_feature_made_from_the_changed_one_follows_it() -> None:
    case = small.case(
        behaviour=(BehaviourTest(name="t", kind="invariance", feature="x", set=3.0),),
        features=(
            ColumnFeature(name="x"),
            CustomFeature(
                name="twice", kind="custom", transform="tests.unit.evaluation.custom_functions:double", of=("x",)
            ),
        ),
    )
    rows = ROWS.append_column("twice", pa.array(2 * ROWS["x"].to_numpy()))
    changed = behaviour.with_column(case, rows, "x", pa.array(np.full(300, 3.0)))
    assert set(changed["twice"].to_pylist()) == {6.0}
    assert changed.column_names == rows.column_names


def test_an_incomplete_test_is_an_error() -> None:
    for wrong in (
        {"kind": "perturbation", "feature": "x"},
        {"kind": "direction", "feature": "x", "expect": "up"},
        {"kind": "direction", "feature": "x", "add": 1.0},
        {"kind": "invariance"},
    ):
        with pytest.raises(InputError, match=r"behaviour\.t"):
            run(**wrong)


def test_many_rows_are_sampled_and_no_rows_are_no_failure() -> None:
    row_counts: list[int] = []

    def score(rows: pa.Table) -> Scores:
        row_counts.append(rows.num_rows)
        return score_by_x(rows)

    run(rows=small.table(5000), score=score, kind="invariance", feature="z")
    assert row_counts == [behaviour.MOST_ROWS] * 2
    assert run(rows=ROWS.slice(0, 0), kind="invariance", feature="z").reason == "no rows to test on"
