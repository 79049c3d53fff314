"""Measuring: challenger and champion on the same rows, as serving would ask, with the packed model's own answers."""

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.evaluation import metrics
from evermodel.evaluation.evaluate import as_served, evaluate, packed_bytes, smoke_failure
from evermodel.records import EvaluationReport
from evermodel.use_case import BehaviourTest, Evaluation, Gate, Objective, PredictionTask, Slice

from . import small

TRAIN, GATE = small.table(1000, seed=1), small.table(400, seed=2, first=1000)
TURN = small.turn(TRAIN, GATE)


def noisy(rows: pa.Table) -> np.ndarray:
    return np.clip(small.by_x(rows) + 0.8 * np.sin(97 * small.column(rows, "z")), 0, 1)


def report_of(tmp_path: Path, **changes: object) -> EvaluationReport:
    """The truth challenges a noisy champion on the small use case."""
    challenger = small.formula(tmp_path, small.by_x)
    champion = small.formula(tmp_path, noisy, name="champion")
    return evaluate(small.case(**changes), challenger, champion, TURN, now=small.NOW)


def test_a_better_challenger_is_promoted_with_all_figures(tmp_path: Path) -> None:
    case = small.case(
        slices=(Slice(field="shop", minimum_rows=20),),
        behaviour=(BehaviourTest(name="more_x_sells", kind="direction", feature="x", add=1.0, expect="up"),),
    )
    challenger = small.formula(tmp_path, small.by_x)
    champion = small.formula(tmp_path, noisy, name="champion")
    found = evaluate(case, challenger, champion, TURN, now=small.NOW)
    assert found.verdict.word == "promote"
    assert (found.challenger, found.champion) == (challenger.release.id, champion.release.id)
    assert found.metrics == metrics.figures(case, metrics.sample_of(case, GATE, small.by_x(GATE)))
    assert found.champion_metrics == metrics.figures(case, metrics.sample_of(case, GATE, noisy(GATE)))
    difference = found.verdict.difference
    assert difference is not None
    assert difference.point == pytest.approx(found.metrics["accuracy"] - found.champion_metrics["accuracy"])  # type: ignore[operator]
    assert set(found.baselines) == {"random", "majority"}, "nothing is fitted where there is a champion"
    assert {part.value for part in found.slices if part.metric is None} == {"tiny"}
    assert found.rows == sum(rows for _, _, rows in found.calibration) == 400
    assert found.roc[0][:2] == (0.0, 0.0) and found.roc[-1][:2] == (1.0, 1.0)
    assert found.behaviour[0].passed
    assert found.model_bytes == 1000
    assert found.milliseconds_per_row > 0
    assert EvaluationReport.from_json(found.to_json()) == found


def test_the_worse_challenger_is_rejected(tmp_path: Path) -> None:
    challenger, champion = small.formula(tmp_path, noisy), small.formula(tmp_path, small.by_x, name="champion")
    found = evaluate(small.case(), challenger, champion, TURN, now=small.NOW)
    assert found.verdict.word == "reject"
    assert found.verdict.difference is not None and found.verdict.difference.high < 0


def test_a_first_champion_is_judged_by_baselines(tmp_path: Path) -> None:
    found = evaluate(small.case(), small.formula(tmp_path, small.by_x), None, TURN, now=small.NOW)
    assert found.verdict.word == "promote"
    assert set(found.baselines) == {"random", "majority", "boosting"}
    constant = small.formula(tmp_path, lambda rows: np.zeros(rows.num_rows), name="constant")
    lost = evaluate(small.case(), constant, None, TURN, now=small.NOW)
    assert lost.verdict.word == "reject"
    assert lost.champion is None and lost.champion_metrics == {}


def test_the_same_call_gives_the_same_report_but_for_the_time_it_took(tmp_path: Path) -> None:
    changes = {"behaviour": (BehaviourTest(name="b", kind="perturbation", feature="x", noise=0.1),)}
    first, again = report_of(tmp_path, **changes), report_of(tmp_path, **changes)
    assert first.model_copy(update={"milliseconds_per_row": 0.0}) == again.model_copy(
        update={"milliseconds_per_row": 0.0}
    )


def test_fewer_rows_than_asked_hold(tmp_path: Path) -> None:
    found = report_of(tmp_path, gate=Gate(minimum_rows=401))
    assert found.verdict.word == "hold"
    assert "400 rows with known labels to judge on, fewer than 401" in found.verdict.reasons[0]


def test_rows_without_a_known_label_are_not_judged(tmp_path: Path) -> None:
    place = GATE.column_names.index("label:sold")
    labels = pa.array(GATE["label:sold"].to_pylist()[:100] + [None] * 300, pa.float64())
    gate = GATE.set_column(place, "label:sold", labels)
    challenger, champion = small.formula(tmp_path, small.by_x), small.formula(tmp_path, noisy, name="champion")
    found = evaluate(small.case(), challenger, champion, small.turn(TRAIN, gate), now=small.NOW)
    first = GATE.slice(0, 100)
    assert found.rows == 100
    assert found.metrics["brier"] == metrics.metric("brier", small.by_x(first), first["label:sold"])


def test_only_the_rows_of_the_evaluation_are_judged(tmp_path: Path) -> None:
    found = report_of(tmp_path, evaluation=Evaluation(metric="accuracy", rows={"shop": "north"}))
    assert found.rows == GATE["shop"].to_pylist().count("north")


def test_no_gate_rows_at_all_hold(tmp_path: Path) -> None:
    found = evaluate(
        small.case(), small.formula(tmp_path, small.by_x), None, small.turn(TRAIN, GATE.slice(0, 0)), now=small.NOW
    )
    assert (found.verdict.word, found.rows) == ("hold", 0)
    assert set(found.metrics.values()) == {None}


def test_the_gates_own_metric_is_what_is_judged(tmp_path: Path) -> None:
    found = report_of(tmp_path, gate=Gate(metric="log_loss", baselines="warn"))
    assert (found.metric, found.gate_metric) == ("accuracy", "log_loss")
    assert found.verdict.reasons[0].startswith("log_loss")
    assert found.baselines["majority"] == pytest.approx(
        metrics.metric("log_loss", np.full(400, TRAIN["label:sold"].to_numpy().mean()), GATE["label:sold"])
    )


@pytest.mark.parametrize("part", ["train", "replay"])
def test_a_gate_row_that_was_trained_on_is_an_error(tmp_path: Path, part: str) -> None:
    train = pa.concat_tables([TRAIN, GATE.slice(7, 1)]) if part == "train" else TRAIN
    turn = small.turn(train, GATE, replay=GATE.slice(7, 1) if part == "replay" else None)
    with pytest.raises(DataError, match="1 gate rows were trained on, such as row_id 1007"):
        evaluate(small.case(), small.formula(tmp_path, small.by_x), None, turn, now=small.NOW)


def test_labels_that_are_not_mature_are_an_error(tmp_path: Path) -> None:
    newest = small.START + timedelta(hours=1399)
    challenger = small.formula(tmp_path, small.by_x)
    evaluate(small.case(), challenger, None, TURN, now=newest + timedelta(days=1), fitted_baselines=False)
    with pytest.raises(DataError, match="mature at"):
        evaluate(small.case(), challenger, None, TURN, now=newest + timedelta(days=1, microseconds=-1))


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
        (raising, "asked for a row, the packed model raised RuntimeError: no such tensor"),
        (broken_by_nulls, "asked for a row of nulls, the packed model answered a number that isn't finite"),
        (
            lambda rows: np.zeros((rows.num_rows, 2)),
            r"asked for a row, the packed model answered the shape \(1, 2\), not \(1,\)",
        ),
        (not_finite_at_the_end, "some gate rows got a score that isn't finite"),
    ],
)
def test_a_model_that_cannot_answer_is_rejected_and_not_measured(tmp_path: Path, of: object, reason: str) -> None:
    challenger, champion = small.formula(tmp_path, of), small.formula(tmp_path, noisy, name="champion")  # type: ignore[arg-type]
    found = evaluate(small.case(), challenger, champion, TURN, now=small.NOW)
    assert found.verdict.word == "reject"
    assert re.search(reason, found.verdict.reasons[1])
    assert set(found.metrics.values()) == {None}
    warned = evaluate(small.case(gate=Gate(smoke="warn")), challenger, champion, TURN, now=small.NOW)
    assert warned.verdict.word == "hold", "nothing was measured, so nothing is promoted"


def test_class_scores_have_the_models_classes(tmp_path: Path) -> None:
    label = small.case().labels[0].model_copy(update={"type": "category"})
    case = small.case(labels=(label,), framing="multiclass")

    def two(rows: pa.Table) -> np.ndarray:
        return np.column_stack([small.by_x(rows), 1 - small.by_x(rows)])

    right = small.formula(tmp_path, two, classes=("yes", "no"))
    wrong = small.formula(tmp_path, two, classes=("yes", "no", "perhaps"))
    assert smoke_failure(case, right, GATE) is None
    assert smoke_failure(case, wrong, GATE) is not None


def test_size_is_of_all_bundles(tmp_path: Path) -> None:
    two = small.formula(tmp_path, small.by_x, num_bytes=700, objectives=("sale", "amount"))
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
    assert set(as_served(case, GATE)["z"].to_pylist()) == {1.0}
    seen: list[set[float | None]] = []

    def watching(rows: pa.Table) -> np.ndarray:
        seen.append(set(rows["z"].to_pylist()))
        return small.by_x(rows)

    evaluate(case, small.formula(tmp_path, watching), None, TURN, now=small.NOW, fitted_baselines=False)
    assert all(values == {1.0} for values in seen)


def test_two_objectives_are_judged_together_and_told_apart(tmp_path: Path) -> None:
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
    parts = {"sale": small.by_x, "amount": lambda rows: 20 * small.column(rows, "x") + 1}

    def combined(rows: pa.Table) -> np.ndarray:
        return parts["sale"](rows) + 0.1 * parts["amount"](rows)

    two = {"objectives": ("sale", "amount"), "parts": parts}
    model = small.formula(tmp_path, combined, weights={"sale": 1.0, "amount": 0.1}, **two)  # type: ignore[arg-type]
    blind = small.formula(tmp_path, combined, name="champion", weights={"sale": -1.0, "amount": -0.1}, **two)  # type: ignore[arg-type]
    found = evaluate(case, model, blind, small.turn(train, gate), now=small.NOW)
    assert found.verdict.word == "promote"
    assert {"hr", "mrr", "ndcg", "sale:auc", "amount:mae"} <= set(found.metrics)
    assert found.metrics["amount:mae"] == pytest.approx(1.0)
    assert found.metrics["sale:brier"] == metrics.metric("brier", small.by_x(gate), gate["label:sold"])
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

    def knows(rows: pa.Table) -> np.ndarray:
        left = 1 - small.by_x(rows)
        return np.column_stack([left, 1 - left, np.zeros(rows.num_rows)])

    challenger = small.formula(tmp_path, knows, classes=("left", "right", "other"))
    champion = small.formula(tmp_path, lambda rows: np.ones((rows.num_rows, 1)), name="champion", classes=("left",))
    found = evaluate(case, challenger, champion, small.turn(named(TRAIN), named(GATE)), now=small.NOW)
    assert found.metrics["hr"] == 1.0
    assert found.champion_metrics["hr"] == pytest.approx((GATE["x"].to_numpy() <= 0).mean())
    assert found.verdict.word == "promote"
    assert found.roc == ()
    assert found.calibration != ()
