"""Metrics against scikit-learn and published definitions; what isn't defined is None."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as reference

from evermodel.errors import DataError
from evermodel.evaluation import metrics
from evermodel.use_case import METRICS, Evaluation, PredictionTask

from . import small

RNG = np.random.default_rng(11)
Y = (RNG.random(500) < 0.3).astype(float)
P = np.clip(0.4 * Y + 0.6 * RNG.random(500), 0, 1).round(2)  # rounded: ties
CLASSES = ("a", "b", "c", "d")
WAS = np.array(CLASSES)[RNG.integers(0, 4, 400)]
MATRIX = RNG.dirichlet(np.ones(4), 400) + 0.4 * (WAS[:, None] == np.array(CLASSES))
MATRIX /= MATRIX.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auc", reference.roc_auc_score(Y, P)),
        ("average_precision", reference.average_precision_score(Y, P)),
        ("log_loss", reference.log_loss(Y, P)),
        ("brier", reference.brier_score_loss(Y, P)),
        ("accuracy", reference.accuracy_score(Y, P >= 0.5)),
        ("f1", reference.f1_score(Y, P >= 0.5)),
        ("mae", reference.mean_absolute_error(Y, P)),
        ("rmse", reference.root_mean_squared_error(Y, P)),
        ("rmsle", reference.root_mean_squared_log_error(Y, P)),
    ],
)
def test_one_score_a_row_is_scikit_learns(name: str, expected: float) -> None:
    assert metrics.metric(name, P, Y) == pytest.approx(expected, abs=1e-12)


def test_classes_are_scikit_learns() -> None:
    said = np.array(CLASSES)[MATRIX.argmax(axis=1)]
    assert metrics.metric("accuracy", MATRIX, WAS, classes=CLASSES) == reference.accuracy_score(WAS, said)
    assert metrics.metric("log_loss", MATRIX, WAS, classes=CLASSES) == pytest.approx(reference.log_loss(WAS, MATRIX))
    assert metrics.metric("f1_macro", MATRIX, WAS, classes=CLASSES) == pytest.approx(
        reference.f1_score(WAS, said, average="macro")
    )
    assert metrics.metric("top_k", MATRIX, WAS, classes=CLASSES, k=2) == pytest.approx(
        reference.top_k_accuracy_score(WAS, MATRIX, k=2)
    )


def test_macro_f1_counts_only_classes_that_were_said_or_right() -> None:
    scores, was = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]]), ["a", "b"]
    expected = reference.f1_score(was, ["a", "a"], average="macro")
    assert metrics.metric("f1_macro", scores, was, classes=("a", "b", "c")) == pytest.approx(expected)


def test_expected_calibration_error_by_hand() -> None:
    # bins of a tenth: 0.95 twice, one came true; 0.25 once, and didn't. (2·|0.5−0.95| + 1·|0−0.25|) / 3
    assert metrics.metric("ece", np.array([0.95, 0.95, 0.25]), [1, 0, 0]) == pytest.approx((0.9 + 0.25) / 3)


def test_lists_of_a_catalogue_and_of_groups() -> None:
    assert metrics.metric("hr", MATRIX, WAS, classes=CLASSES, k=1) == metrics.metric(
        "accuracy", MATRIX, WAS, classes=CLASSES
    )
    scores, labels, groups = np.array([0.1, 0.9, 0.8, 0.2]), [1, 0, 1, 0], ["q", "q", "r", "r"]
    assert metrics.metric("mrr", scores, labels, groups=groups) == pytest.approx((1 / 2 + 1) / 2)
    with pytest.raises(DataError, match=r"predict\.group"):
        metrics.metric("mrr", scores, labels)


def test_unknown_labels_are_dropped_not_counted() -> None:
    scores = np.array([0.9, 0.2, 0.9, 0.9])
    assert metrics.metric("accuracy", scores, pa.array([1.0, 0.0, None, None])) == 1.0
    assert metrics.metric("accuracy", scores, np.array([1.0, 0.0, np.nan, np.nan])) == 1.0
    matrix = np.tile([0.9, 0.1], (3, 1))
    assert metrics.metric("accuracy", matrix, pa.array(["a", None, None]), classes=("a", "b")) == 1.0
    groups = ["q", "q", "r", "r"]
    known = metrics.sample(scores, pa.array([1.0, 0.0, None, 1.0]), groups=groups)
    assert (len(known), len(known.groups)) == (3, 3)


def test_a_label_without_a_class_is_a_miss() -> None:
    matrix = np.tile([0.9, 0.1], (2, 1))
    known = metrics.sample(matrix, ["a", "new"], classes=("a", "b"))
    assert metrics.figure("accuracy", known) == 0.5
    assert metrics.figure("log_loss", known) == pytest.approx((-np.log(0.9) - np.log(np.finfo(float).eps)) / 2)
    assert metrics.figure("f1_macro", known) == pytest.approx(
        reference.f1_score(["a", "new"], ["a", "a"], average="macro")
    )


@pytest.mark.parametrize("framing", ["binary", "regression"])
def test_no_rows_is_none(framing: str) -> None:
    for name in METRICS[framing]:
        assert metrics.metric(name, np.empty(0), []) is None


@pytest.mark.parametrize("name", [*METRICS["multiclass"], *METRICS["ranking"]])
def test_no_rows_of_classes_is_none(name: str) -> None:
    assert metrics.metric(name, np.empty((0, 2)), pa.array([], pa.string()), classes=("a", "b")) is None


@pytest.mark.parametrize(
    ("name", "scores", "labels"),
    [
        ("auc", [0.1, 0.9], [1, 1]),
        ("auc", [0.1, 0.9], [0, 0]),
        ("average_precision", [0.1, 0.9], [0, 0]),
        ("f1", [0.1, 0.2], [0, 0]),
        ("log_loss", [1.1, 0.2], [1, 0]),
        ("brier", [-0.1, 0.2], [1, 0]),
        ("ece", [1.1, 0.2], [1, 0]),
        ("rmsle", [1.0, 1.0], [-1, 1]),
    ],
)
def test_undefined_is_none(name: str, scores: list[float], labels: list[int]) -> None:
    assert metrics.metric(name, np.array(scores), labels) is None


def test_a_prediction_below_zero_counts_as_zero_in_rmsle() -> None:
    assert metrics.metric("rmsle", np.array([-5.0]), [np.e - 1]) == pytest.approx(1.0)


def test_lists_with_nothing_relevant_or_below_zero_are_none() -> None:
    assert metrics.metric("ndcg", np.array([0.1, 0.2]), [0, 0], groups=[1, 1]) is None
    assert metrics.metric("ndcg", np.array([0.1, 0.2]), [-1, 1], groups=[1, 1]) is None


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        metrics.metric("acuracy", P, Y)


def test_only_the_rows_asked_for_are_judged() -> None:
    rows = small.table(100)
    whole = small.case()
    part = whole.model_copy(update={"evaluation": Evaluation(metric="accuracy", rows={"shop": "north"})})
    served = rows.append_column("score", pa.array(small.by_x(rows)))
    north = np.array([shop == "north" for shop in rows["shop"].to_pylist()])
    assert metrics.judged(part, rows).tolist() == north.tolist()
    labels = rows["label:sold"].to_numpy()
    assert metrics.metric_of(part, served) == ((small.by_x(rows) >= 0.5) == labels)[north].mean()
    assert metrics.metric_of(whole, served, name="brier") == pytest.approx(np.mean((small.by_x(rows) - labels) ** 2))
    assert metrics.metric_of(whole, rows) is None, "no score column: nothing is known"


def test_served_categories_are_judged_by_the_places_of_their_classes() -> None:
    served = pa.table({"label:sold": ["a", "b", "z", None], "classes": [["a", "b"], ["c", "b"], ["a"], ["a"]]})
    for k, share in ((1, 1 / 3), (2, 2 / 3)):
        case = small.case(framing="ranking", evaluation=Evaluation(metric="hr", k=k))
        assert metrics.metric_of(case, served) == pytest.approx(share), "an end that wasn't answered is a miss"
    assert metrics.metric_of(case, served, name="log_loss") is None, "the order of the classes doesn't tell it"


def test_groups_come_from_the_prediction_source() -> None:
    case = small.case(framing="ranking", predict=PredictionTask(source="visits", group="shop"))
    known = metrics.sample_of(case, small.table(20), np.zeros(20))
    assert len(set(known.groups.tolist())) == 3
    assert metrics.sample_of(small.case(), small.table(20), np.zeros(20)).groups is None


def test_calibration_is_of_probabilities_only() -> None:
    assert metrics.calibration_error(metrics.sample(P, Y)) == pytest.approx(metrics.metric("ece", P, Y))
    assert metrics.calibration_error(metrics.sample(P * 3, Y)) is None
    assert metrics.calibration_error(metrics.sample(P, Y + 1)) is None
    assert 0 < metrics.calibration_error(metrics.sample(MATRIX, WAS, classes=CLASSES)) < 1


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match="2 scores for 3 labels"):
        metrics.metric("mae", np.zeros(2), [1, 2, 3])
    with pytest.raises(DataError, match="2 classes, and 1 names"):
        metrics.metric("accuracy", np.zeros((1, 2)), ["a"], classes=("a",))
