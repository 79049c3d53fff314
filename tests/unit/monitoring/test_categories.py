"""A category's answers are lists of classes: monitoring compares the first class, and the place of the right one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from evermodel.monitoring.drift import fit_reference
from evermodel.use_case import UseCase
from tests.support.scores import category
from tests.support.use_cases import make_use_case
from tests.unit.monitoring.synthetic_drift import SERVED, SHOP, WEEK, Distribution, Shop

CLASSES = ("hat", "shoe", "coat")


@pytest.fixture(scope="module")
def wardrobe() -> UseCase:
    """Which of three things is bought next."""
    return make_use_case(**SHOP | {"framing": "multiclass", "labels": {"bought": {"type": "category"}}})


def category_rows(seed: int, *, count: int = 336, right: float = 0.8, hats: float = 0.4) -> tuple[pa.Table, np.ndarray]:
    """Rows with one class each, and scores [n, 3]; the right class has the best score in a share `right` of the rows."""
    rng = np.random.default_rng(seed)
    rows = Distribution().rows(count, seed, start=SERVED.start).drop_columns(["score", "score:buy", "label:bought"])
    truth = rng.choice(3, count, p=[hats, (1 - hats) / 2, (1 - hats) / 2])
    first = np.where(rng.random(count) < right, truth, (truth + rng.integers(1, 3, count)) % 3)
    scores = np.full((count, 3), 0.2)
    scores[np.arange(count), first] = 0.6
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = rows.append_column("label:bought", pa.array([CLASSES[index] for index in truth]))
    rows = rows.append_column("score:buy", pa.array(scores.max(axis=1)))
    return rows.append_column("classes", pa.array([[CLASSES[index] for index in row] for row in order])), scores


@pytest.fixture(scope="module")
def answered(wardrobe: UseCase) -> Shop:
    rows, scores = category_rows(1, count=3000)
    reference = fit_reference(wardrobe, rows, {"buy": category(scores, CLASSES)}, performance=0.8, window=SERVED)
    return Shop(wardrobe, reference)


def test_a_window_like_the_reference_has_no_alerts_and_is_measured_by_its_first_classes(answered: Shop) -> None:
    rows, scores = category_rows(2)
    report = answered.monitor(rows)
    truth = np.array([CLASSES.index(name) for name in rows["label:bought"].to_pylist()])
    assert report.performance == pytest.approx((scores.argmax(axis=1) == truth).mean())
    assert report.alerts == () and report.estimate is None


def test_more_errors_on_the_same_inputs_are_a_concept_shift(answered: Shop) -> None:
    assert answered.diagnoses(category_rows(3, right=0.4)[0])["performance"] == "concept_shift"


def test_another_mix_of_labels_is_a_label_shift(answered: Shop) -> None:
    found = answered.diagnoses(category_rows(4, hats=0.8)[0])
    assert found == {"prediction_drift": "label_shift", "performance": "label_shift"}


def test_without_labels_another_mix_of_answers_is_unknown(answered: Shop) -> None:
    rows = category_rows(5, hats=0.8)[0]
    rows = rows.set_column(rows.column_names.index("label:bought"), "label:bought", pa.nulls(336, pa.string()))
    assert answered.diagnoses(rows, now=SERVED.start) == {"prediction_drift": "unknown"}
    assert answered.monitor(rows, now=SERVED.start + WEEK).performance is None
