"""Evaluation: challenger and champion on the same rows, as served, with the packed model's own scores."""

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.evaluation import metrics
from evermodel.evaluation.evaluate import evaluate, packed_bytes, smoke_failure
from evermodel.evaluation.samples import sample_of
from evermodel.records import EvaluationReport
from evermodel.use_case import BehaviourTest, CustomFeature, Evaluation, Gate, Objective, PredictionTask, Slice
from tests.support.scores import binary, metric
from tests.unit.evaluation import small

TRAIN, GATE = small.table(1000, seed=1), small.table(400, seed=2, first=1000)
ROWS = small.training_rows(TRAIN, GATE)


def noisy(rows: pa.Table) -> np.ndarray:
    return np.clip(small.by_x(rows) + 0.8 * np.sin(97 * small.column(rows, "z")), 0, 1)


def report_of(tmp_path: Path, **changes: object) -> EvaluationReport:
    """The truth challenges a noisy champion on the small use case."""
    challenger = small.release(tmp_path, small.by_x)
    champion = small.release(tmp_path, noisy, name="champion")
    return evaluate(small.case(**changes), challenger, champion, ROWS, now=small.NOW)


def test_a_better_challenger_is_promoted_with_all_figures(tmp_path: Path) -> None:
    case = small.case(
        slices=(Slice(field="shop", minimum_rows=20),),
        behaviour=(BehaviourTest(name="more_x_sells", kind="direction", feature="x", add=1.0, expect="up"),),
    )
    challenger = small.release(tmp_path, small.by_x)
    champion = small.release(tmp_path, noisy, name="champion")
    found = evaluate(case, challenger, champion, ROWS, now=small.NOW)
    assert found.verdict.word == "promote"
    assert (found.challenger, found.champion) == (challenger.release.id, champion.release.id)
    assert found.metrics == metrics.figures(case, sample_of(case, GATE, binary(small.by_x(GATE))))
    assert found.champion_metrics == metrics.figures(case, sample_of(case, GATE, binary(noisy(GATE))))
    difference = found.verdict.difference
    assert difference is not None
    assert difference.point == pytest.approx(found.metrics["accuracy"] - found.champion_metrics["accuracy"])  # type: ignore[operator]
    assert set(found.baselines) == {"random", "majority"}, "nothing is fitted if there is a champion"
    assert {part.value for part in found.slices if part.metric is None} == {"tiny"}
    assert found.rows == sum(rows for _, _, rows in found.calibration) == 400
    assert found.roc[0][:2] == (0.0, 0.0) and found.roc[-1][:2] == (1.0, 1.0)
    assert found.behaviour[0].passed
    assert found.model_bytes == 1000
    assert found.milliseconds_per_row > 0
    assert EvaluationReport.from_json(found.to_json()) == found


def test_the_worse_challenger_is_rejected(tmp_path: Path) -> None:
    challenger, champion = small.release(tmp_path, noisy), small.release(tmp_path, small.by_x, name="champion")
    found = evaluate(small.case(), challenger, champion, ROWS, now=small.NOW)
    assert found.verdict.word == "reject"
    assert found.verdict.difference is not None and found.verdict.difference.high < 0


def test_a_first_champion_is_judged_by_baselines(tmp_path: Path) -> None:
    found = evaluate(small.case(), small.release(tmp_path, small.by_x), None, ROWS, now=small.NOW)
    assert found.verdict.word == "promote"
    assert set(found.baselines) == {"random", "majority", "boosting"}
    constant = small.release(tmp_path, lambda rows: np.zeros(rows.num_rows), name="constant")
    lost = evaluate(small.case(), constant, None, ROWS, now=small.NOW)
    assert lost.verdict.word == "reject"
    assert lost.champion is None and lost.champion_metrics == {}


def test_the_same_call_gives_the_same_report_but_for_the_time_it_took(tmp_path: Path) -> None:
    changes = {"behaviour": (BehaviourTest(name="b", kind="perturbation", feature="x", noise=0.1),)}
    first, again = report_of(tmp_path, **changes), report_of(tmp_path, **changes)
    assert first.model_copy(update={"milliseconds_per_row": 0.0}) == again.model_copy(
        update={"milliseconds_per_row": 0.0}
    )


def test_fewer_rows_than_the_minimum_hold(tmp_path: Path) -> None:
    found = report_of(tmp_path, gate=Gate(minimum_rows=401))
    assert found.verdict.word == "hold"
    assert "400 rows with known labels, fewer than 401" in found.verdict.reasons[0]


def test_rows_without_a_known_label_are_left_out(tmp_path: Path) -> None:
    place = GATE.column_names.index("label:sold")
    labels = pa.array(GATE["label:sold"].to_pylist()[:100] + [None] * 300, pa.float64())
    gate = GATE.set_column(place, "label:sold", labels)
    challenger, champion = small.release(tmp_path, small.by_x), small.release(tmp_path, noisy, name="champion")
    found = evaluate(small.case(), challenger, champion, small.training_rows(TRAIN, gate), now=small.NOW)
    first = GATE.slice(0, 100)
    assert found.rows == 100
    assert found.metrics["brier"] == metric("brier", binary(small.by_x(first)), first["label:sold"])


def test_only_the_rows_of_the_evaluation_count(tmp_path: Path) -> None:
    found = report_of(tmp_path, evaluation=Evaluation(metric="accuracy", rows={"shop": "north"}))
    assert found.rows == GATE["shop"].to_pylist().count("north")


def test_no_gate_rows_at_all_hold(tmp_path: Path) -> None:
    found = evaluate(
        small.case(),
        small.release(tmp_path, small.by_x),
        None,
        small.training_rows(TRAIN, GATE.slice(0, 0)),
        now=small.NOW,
    )
    assert (found.verdict.word, found.rows) == ("hold", 0)
    assert set(found.metrics.values()) == {None}


def test_the_gates_own_metric_decides(tmp_path: Path) -> None:
    found = report_of(tmp_path, gate=Gate(metric="log_loss", baselines="warn"))
    assert (found.metric, found.gate_metric) == ("accuracy", "log_loss")
    assert found.verdict.reasons[0].startswith("log_loss")
    assert found.baselines["majority"] == pytest.approx(
        metric("log_loss", binary(np.full(400, TRAIN["label:sold"].to_numpy().mean())), GATE["label:sold"])
    )


@pytest.mark.parametrize("part", ["train", "rehearsal"])
def test_a_gate_row_that_was_trained_on_is_an_error(tmp_path: Path, part: str) -> None:
    train = pa.concat_tables([TRAIN, GATE.slice(7, 1)]) if part == "train" else TRAIN
    rows = small.training_rows(train, GATE, rehearsal=GATE.slice(7, 1) if part == "rehearsal" else None)
    with pytest.raises(DataError, match="1 gate rows were trained on, such as row_id 1007"):
        evaluate(small.case(), small.release(tmp_path, small.by_x), None, rows, now=small.NOW)


def test_labels_that_are_not_mature_are_an_error(tmp_path: Path) -> None:
    newest = small.START + timedelta(hours=1399)
    challenger = small.release(tmp_path, small.by_x)
    evaluate(small.case(), challenger, None, ROWS, now=newest + timedelta(days=1), fitted_baselines=False)
    with pytest.raises(DataError, match="mature at"):
        evaluate(small.case(), challenger, None, ROWS, now=newest + timedelta(days=1, microseconds=-1))


# the packed model ---------------------------------------------------------------------------------------------------


def broken_by_nulls(rows: pa.Table) -> np.ndarray:
    return np.asarray(rows["x"].to_numpy())


def raising(rows: pa.Table) -> np.ndarray:
    raise RuntimeError("no such tensor")


def not_finite_at_the_end(rows: pa.Table) -> np.ndarray:
    scores = small.by_x(rows)
    if rows.num_rows > 1:
        scores[-1] = np.inf
    return scores


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (raising, "for a row, the packed model raised RuntimeError: no such tensor"),
        (broken_by_nulls, "for a row of nulls, the packed model gave a score that isn't finite"),
        (
            lambda rows: np.zeros((rows.num_rows, 2)),
            r"for a row, the packed model raised DataError: binary scores have the shape \(1, 2\), not \(1,\)",
        ),
        (not_finite_at_the_end, "the scores of some gate rows aren't finite"),
    ],
)
def test_a_model_that_cannot_score_is_rejected_and_not_measured(tmp_path: Path, of: object, reason: str) -> None:
    challenger, champion = small.release(tmp_path, of), small.release(tmp_path, noisy, name="champion")  # type: ignore[arg-type]
    found = evaluate(small.case(), challenger, champion, ROWS, now=small.NOW)
    assert found.verdict.word == "reject"
    assert re.search(reason, found.verdict.reasons[1])
    assert set(found.metrics.values()) == {None}
    warned = evaluate(small.case(gate=Gate(smoke="warn")), challenger, champion, ROWS, now=small.NOW)
    assert warned.verdict.word == "hold", "nothing is promoted without a measurement"


def test_class_scores_have_the_models_classes(tmp_path: Path) -> None:
    label = small.case().labels[0].model_copy(update={"type": "category"})
    case = small.case(labels=(label,), framing="multiclass")

    def two(rows: pa.Table) -> np.ndarray:
        return np.column_stack([small.by_x(rows), 1 - small.by_x(rows)])

    right = small.release(tmp_path, two, classes=("yes", "no"))
    wrong = small.release(tmp_path, two, classes=("yes", "no", "perhaps"))
    numbers = small.release(tmp_path, small.by_x)
    assert smoke_failure(case, right, GATE) is None
    assert "the shape (1, 2), not (1, 3)" in str(smoke_failure(case, wrong, GATE))
    assert (
        smoke_failure(case, numbers, GATE)
        == "for a row, the packed model gave binary scores, but the label is a category"
    )


def test_size_is_of_all_bundles(tmp_path: Path) -> None:
    two = small.release(tmp_path, {"sale": small.by_x, "amount": small.by_x}, num_bytes=700)
    assert packed_bytes(two.release) == 1400
    alone = two.release.bundles[0].model_copy(update={"uri": two.release.bundles[0].uri + "/weights"})
    assert packed_bytes(two.release.model_copy(update={"bundles": (alone,)})) == 700


def test_the_size_limit_holds(tmp_path: Path) -> None:
    assert report_of(tmp_path, gate=Gate(max_bytes=999)).verdict.word == "reject"
    assert report_of(tmp_path, gate=Gate(max_bytes=1000)).verdict.word == "promote"


# framings -----------------------------------------------------------------------------------------------------------


def test_a_column_that_serving_fixes_is_fixed_here_too(tmp_path: Path) -> None:
    position = small.case().features[1].model_copy(update={"serve_as": 1.0})
    case = small.case(features=(small.case().features[0], position))
    values: list[set[float | None]] = []

    def recording(rows: pa.Table) -> np.ndarray:
        values.append(set(rows["z"].to_pylist()))
        return small.by_x(rows)

    evaluate(case, small.release(tmp_path, recording), None, ROWS, now=small.NOW, fitted_baselines=False)
    assert values and all(found == {1.0} for found in values)


def test_a_feature_of_a_fixed_column_is_recomputed(tmp_path: Path) -> None:
    x, z = small.case().features
    twice = CustomFeature(
        name="twice", kind="custom", transform="tests.unit.evaluation.custom_functions:double_z", of=("z",)
    )
    case = small.case(features=(x, z.model_copy(update={"serve_as": 1.0}), twice))
    train, gate = (rows.append_column("twice", pa.array(2 * rows["z"].to_numpy())) for rows in (TRAIN, GATE))
    values: list[set[float | None]] = []

    def recording(rows: pa.Table) -> np.ndarray:
        values.append(set(rows["twice"].to_pylist()))
        return small.by_x(rows)

    rows = small.training_rows(train, gate)
    evaluate(case, small.release(tmp_path, recording), None, rows, now=small.NOW, fitted_baselines=False)
    assert values and all(found == {2.0} for found in values)


def test_two_objectives_are_evaluated_together_and_each_alone(tmp_path: Path) -> None:
    amount = small.case().labels[0].model_copy(update={"name": "amount", "type": "number"})
    case = small.case(
        framing="ranking",
        predict=PredictionTask(source="visits", group="day"),
        labels=(small.case().labels[0], amount),
        objectives=(*small.case().objectives, Objective(name="amount", label="amount", weight=0.1)),
        evaluation=Evaluation(metric="ndcg", baselines=("random",)),
        gate=Gate(calibration_error=0.2),
    )
    days = pa.array(np.arange(400) // 8)
    gate = GATE.append_column("day", days).append_column("label:amount", pa.array(20 * GATE["x"].to_numpy()))
    train = TRAIN.append_column("day", pa.array(np.arange(1000) // 8)).append_column("label:amount", TRAIN["x"])
    formulas = {"sale": small.by_x, "amount": lambda rows: 20 * small.column(rows, "x") + 1}

    def weighted(name: str, sale: float, amount: float) -> small.FormulaRelease:
        weights = {"sale": sale, "amount": amount}
        return small.release(tmp_path, formulas, name=name, weights=weights, kinds={"amount": "number"})

    model, reverse = weighted("model", 1.0, 0.1), weighted("champion", -1.0, -0.1)
    found = evaluate(case, model, reverse, small.training_rows(train, gate), now=small.NOW)
    assert found.verdict.word == "promote"
    assert {"hr", "mrr", "ndcg", "sale:auc", "amount:mae"} <= set(found.metrics)
    assert found.metrics["amount:mae"] == pytest.approx(1.0)
    assert found.metrics["sale:brier"] == metric("brier", binary(small.by_x(gate)), gate["label:sold"])
    assert sum(rows for _, _, rows in found.calibration) == 400, "of the first objective: a sum is no probability"
    assert next(check for check in found.verdict.checks if check.name == "calibration").passed


def test_a_catalogue_is_ranked_for_each_row_by_models_with_other_classes(tmp_path: Path) -> None:
    label = small.case().labels[0].model_copy(update={"type": "category"})
    case = small.case(
        framing="ranking", labels=(label,), evaluation=Evaluation(metric="hr", k=1, baselines=("random", "popularity"))
    )

    def named(rows: pa.Table) -> pa.Table:
        names = np.where(small.column(rows, "x") > 0, "right", "left")
        return rows.set_column(rows.column_names.index("label:sold"), "label:sold", pa.array(names.tolist()))

    def by_side(rows: pa.Table) -> np.ndarray:
        left = 1 - small.by_x(rows)
        return np.column_stack([left, 1 - left, np.zeros(rows.num_rows)])

    challenger = small.release(tmp_path, by_side, classes=("left", "right", "other"))
    champion = small.release(tmp_path, lambda rows: np.ones((rows.num_rows, 1)), name="champion", classes=("left",))
    found = evaluate(case, challenger, champion, small.training_rows(named(TRAIN), named(GATE)), now=small.NOW)
    assert found.metrics["hr"] == 1.0
    assert found.champion_metrics["hr"] == pytest.approx((GATE["x"].to_numpy() <= 0).mean())
    assert found.verdict.word == "promote"
    assert found.roc == ()
    assert found.calibration != ()
