"""Metrics against scikit-learn and published definitions; an undefined metric is None."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as reference

from evermodel.errors import DataError
from evermodel.evaluation import metrics
from evermodel.evaluation.samples import build_sample, evaluated_rows, sample_of
from evermodel.use_case import METRICS, Evaluation, PredictionTask, metric_names
from tests.support.scores import binary, category, metric
from tests.unit.evaluation import small

RNG = np.random.default_rng(11)
Y = (RNG.random(500) < 0.3).astype(float)
P = np.clip(0.4 * Y + 0.6 * RNG.random(500), 0, 1).round(2)  # rounded: ties
CLASSES = ("a", "b", "c", "d")
ACTUAL = np.array(CLASSES)[RNG.integers(0, 4, 400)]
MATRIX = RNG.dirichlet(np.ones(4), 400) + 0.4 * (ACTUAL[:, None] == np.array(CLASSES))
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
    assert metric(name, binary(P), Y) == pytest.approx(expected, abs=1e-12)


def test_classes_are_scikit_learns() -> None:
    predicted = np.array(CLASSES)[MATRIX.argmax(axis=1)]
    assert metric("accuracy", category(MATRIX, CLASSES), ACTUAL) == reference.accuracy_score(ACTUAL, predicted)
    assert metric("log_loss", category(MATRIX, CLASSES), ACTUAL) == pytest.approx(reference.log_loss(ACTUAL, MATRIX))
    assert metric("f1_macro", category(MATRIX, CLASSES), ACTUAL) == pytest.approx(
        reference.f1_score(ACTUAL, predicted, average="macro")
    )
    assert metric("top_k", category(MATRIX, CLASSES), ACTUAL, k=2) == pytest.approx(
        reference.top_k_accuracy_score(ACTUAL, MATRIX, k=2)
    )


def test_macro_f1_counts_only_classes_that_are_predicted_or_right() -> None:
    scores, actual = category([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], "abc"), ["a", "b"]
    expected = reference.f1_score(actual, ["a", "a"], average="macro")
    assert metric("f1_macro", scores, actual) == pytest.approx(expected)


def test_expected_calibration_error_by_hand() -> None:
    # bins of a tenth: 0.95 twice, one came true; 0.25 once, and didn't. (2·|0.5−0.95| + 1·|0−0.25|) / 3
    assert metric("ece", binary([0.95, 0.95, 0.25]), [1, 0, 0]) == pytest.approx((0.9 + 0.25) / 3)


def test_lists_of_a_catalogue_and_of_groups() -> None:
    assert metric("hr", category(MATRIX, CLASSES), ACTUAL, k=1) == metric("accuracy", category(MATRIX, CLASSES), ACTUAL)
    scores, labels, groups = binary([0.1, 0.9, 0.8, 0.2]), [1, 0, 1, 0], ["q", "q", "r", "r"]
    assert metric("mrr", scores, labels, groups=groups) == pytest.approx((1 / 2 + 1) / 2)
    with pytest.raises(DataError, match=r"predict\.group"):
        metric("mrr", scores, labels)


def test_unknown_labels_are_dropped_not_counted() -> None:
    scores = binary([0.9, 0.2, 0.9, 0.9])
    assert metric("accuracy", scores, pa.array([1.0, 0.0, None, None])) == 1.0
    assert metric("accuracy", scores, np.array([1.0, 0.0, np.nan, np.nan])) == 1.0
    matrix = category(np.tile([0.9, 0.1], (3, 1)), "ab")
    assert metric("accuracy", matrix, pa.array(["a", None, None])) == 1.0
    groups = ["q", "q", "r", "r"]
    sample = build_sample(scores, pa.array([1.0, 0.0, None, 1.0]), groups=groups)
    assert sample.groups is not None and (len(sample), len(sample.groups)) == (3, 3)


def test_a_label_without_a_class_is_a_miss() -> None:
    matrix = category(np.tile([0.9, 0.1], (2, 1)), "ab")
    sample = build_sample(matrix, ["a", "new"])
    assert metrics.figure("accuracy", sample) == 0.5
    assert metrics.figure("log_loss", sample) == pytest.approx((-np.log(0.9) - np.log(np.finfo(float).eps)) / 2)
    assert metrics.figure("f1_macro", sample) == pytest.approx(
        reference.f1_score(["a", "new"], ["a", "a"], average="macro")
    )


@pytest.mark.parametrize("framing", ["binary", "regression"])
def test_no_rows_is_none(framing: str) -> None:
    for name in metric_names(framing):
        assert metric(name, binary([]), []) is None


@pytest.mark.parametrize("name", [*metric_names("multiclass"), *metric_names("ranking")])
def test_no_rows_of_classes_is_none(name: str) -> None:
    assert metric(name, category(np.empty((0, 2)), "ab"), pa.array([], pa.string())) is None


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
    assert metric(name, binary(scores), labels) is None


def test_a_prediction_below_zero_counts_as_zero_in_rmsle() -> None:
    assert metric("rmsle", binary([-5.0]), [np.e - 1]) == pytest.approx(1.0)


def test_lists_with_nothing_relevant_or_below_zero_are_none() -> None:
    assert metric("ndcg", binary([0.1, 0.2]), [0, 0], groups=[1, 1]) is None
    assert metric("ndcg", binary([0.1, 0.2]), [-1, 1], groups=[1, 1]) is None


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        metric("acuracy", binary(P), Y)


def test_only_the_rows_of_the_evaluation_count() -> None:
    rows = small.table(100)
    whole = small.case()
    part = whole.model_copy(update={"evaluation": Evaluation(metric="accuracy", rows={"shop": "north"})})
    served = rows.append_column("score", pa.array(small.by_x(rows)))
    north = np.array([shop == "north" for shop in rows["shop"].to_pylist()])
    assert evaluated_rows(part, rows).tolist() == north.tolist()
    labels = rows["label:sold"].to_numpy()
    assert metrics.metric_of(part, served) == ((small.by_x(rows) >= 0.5) == labels)[north].mean()
    assert metrics.metric_of(whole, served, name="brier") == pytest.approx(np.mean((small.by_x(rows) - labels) ** 2))
    assert metrics.metric_of(whole, rows) is None, "no score column"


def test_served_categories_count_by_the_places_of_their_classes() -> None:
    served = pa.table({"label:sold": ["a", "b", "z", None], "classes": [["a", "b"], ["c", "b"], ["a"], ["a"]]})
    label = small.case().labels[0].model_copy(update={"type": "category"})
    for k, share in ((1, 1 / 3), (2, 2 / 3)):
        case = small.case(framing="ranking", labels=(label,), evaluation=Evaluation(metric="hr", k=k))
        assert metrics.metric_of(case, served) == pytest.approx(share), "a class that isn't in the list is a miss"
    assert metrics.metric_of(case, served, name="log_loss") is None, "log loss needs more than the order of the classes"


def test_groups_come_from_the_prediction_source() -> None:
    case = small.case(framing="ranking", predict=PredictionTask(source="visits", group="shop"))
    sample = sample_of(case, small.table(20), binary(np.zeros(20)))
    assert sample.groups is not None and len(set(sample.groups.tolist())) == 3
    assert sample_of(small.case(), small.table(20), binary(np.zeros(20))).groups is None


def test_calibration_is_of_probabilities_only() -> None:
    assert metrics.calibration_error(build_sample(binary(P), Y)) == pytest.approx(metric("ece", binary(P), Y))
    assert metrics.calibration_error(build_sample(binary(P * 3), Y)) is None
    assert metrics.calibration_error(build_sample(binary(P), Y + 1)) is None
    error = metrics.calibration_error(build_sample(category(MATRIX, CLASSES), ACTUAL))
    assert error is not None and 0 < error < 1


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match="2 scores for 3 labels"):
        metric("mae", binary(np.zeros(2)), [1, 2, 3])
    with pytest.raises(DataError, match=r"the shape \(1, 2\), not \(1, 1\)"):
        category(np.zeros((1, 2)), "a")


def test_every_metric_of_the_use_case_file_can_be_computed() -> None:
    """The list of names and the functions can't differ."""
    framings = {"binary": "binary", "regression": "number", "multiclass": "category", "ranking": "category"}
    for name, properties in METRICS.items():
        for framing in properties.framings:
            is_category = framings[framing] == "category"
            scores = category([[0.9, 0.1], [0.2, 0.8]], "ab") if is_category else binary([0.9, 0.2])
            assert metric(name, scores, ["a", "b"] if is_category else [1, 0]) is not None
