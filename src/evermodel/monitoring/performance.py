"""The champion's performance: the metric on matured rows, an estimate before labels arrive, and business figures.

The estimate is CBPE (confidence-based performance estimation, NannyML): a score gives the probability of the label, and
so the expected confusion matrix before the labels arrive. It is valid while the meaning of a score is stable: it sees a
covariate shift but no concept shift, so no diagnosis uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.columns import as_array, floats
from evermodel.evaluation import metrics
from evermodel.evaluation.samples import Sample, evaluated_rows, label_of, sample_of, served_scores
from evermodel.monitoring import cohorts
from evermodel.monitoring.drift import Reference
from evermodel.monitoring.label_shift import calibrate
from evermodel.monitoring.statistics import Floats
from evermodel.scores import Scores
from evermodel.use_case import METRICS, BusinessFigure, UseCase

BLOCKS = 10
CONFIDENT = 1.645  # standard errors of a one-sided 5 % test


@dataclass(frozen=True)
class Performance:
    """The metric on matured rows with its standard error, and whether it fell below the reference's."""

    metric: str
    rows: int  # matured, with a known label
    value: float | None
    error: float | None
    reference: float | None
    dropped: bool | None  # None: unknown
    fall: float | None = None  # below the reference's, in standard errors; None: unknown

    def evidence(self) -> dict[str, float | str]:
        found: dict[str, float | str] = {"metric": self.metric, "rows": self.rows}
        numbers = {"value": self.value, "error": self.error, "reference": self.reference}
        return found | {name: value for name, value in numbers.items() if value is not None}


def score_of(use_case: UseCase, served: pa.Table, objective: str | None = None) -> Floats | None:
    """An objective's scores, or the combined ones if None → float64[n]; None if the table doesn't have them."""
    names = [f"score:{objective}"] if objective else ["score", f"score:{use_case.objectives[0].name}"]
    name = next((name for name in names if name in served.column_names), None)
    return None if name is None else floats(served[name])


def best_classes(served: pa.Table) -> pa.Array | None:
    """The best class of each row (null if it has none): the first name in the list `classes`."""
    if "classes" not in served.column_names:
        return None
    lists = as_array(pc.cast(served["classes"], pa.list_(pa.string())))
    length = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    places = pa.array(lists.offsets.to_numpy()[:-1], mask=length == 0)
    return lists.values.take(places)


def measure_performance(use_case: UseCase, served: pa.Table, reference: Reference, *, now: datetime) -> Performance:
    """The use case's metric on the matured rows with a known label; the value is None if they are too few."""
    name, settings = use_case.evaluation.metric, use_case.monitoring
    label = use_case.label(label_of(use_case))
    keep = cohorts.matured(served, now=now, delay=label.delay) & cohorts.labelled(served, label.name)
    rows = int(keep.sum())
    unknown = Performance(name, rows, None, None, reference.performance, None)
    if rows < settings.minimum_rows:
        return unknown
    matured = served if keep.all() else served.filter(pa.array(keep))
    scores = served_scores(use_case, matured)
    if scores is None or (scores.is_category and not METRICS[name].needs_only_places):
        return unknown
    value, error = _value_and_error(use_case, matured, scores)
    if value is None or reference.performance is None:
        return Performance(name, rows, value, error, reference.performance, None)
    drop = METRICS[name].sign * (reference.performance - value)
    dropped = drop >= settings.performance_drop and (error is None or drop >= CONFIDENT * error)
    fall = None if not error else drop / error
    return Performance(name, rows, value, error, reference.performance, dropped, fall)


def _value_and_error(use_case: UseCase, rows: pa.Table, scores: Scores) -> tuple[float | None, float | None]:
    """The metric and its standard error: the jackknife's over ten blocks of time (Künsch 1989), at least that of a mean.

    Blocks of time, because the errors of neighbouring rows are correlated. A list of a ranking is never split. Ten blocks
    may agree by chance: the error of a metric that is a mean can't be below that of independent rows.
    """
    settings = use_case.evaluation
    keep = evaluated_rows(use_case, rows)
    kept = rows if keep.all() else rows.filter(pa.array(keep))
    sample = sample_of(use_case, kept, scores.take(keep))

    def metric(part: Sample) -> float | None:
        return metrics.figure(settings.metric, part, k=settings.k, threshold=settings.threshold)

    value = metric(sample)
    if value is None or len(sample) < 2 * BLOCKS:
        return value, None
    positions = np.arange(len(sample))
    unit = positions if sample.groups is None else sample.groups
    cuts = np.quantile(np.unique(unit), np.linspace(0, 1, BLOCKS + 1)[1:-1])
    block = np.searchsorted(cuts, unit, side="right")
    without = [metric(sample.take(block != number)) for number in range(BLOCKS)]
    parts = np.array([figure for figure in without if figure is not None])
    if len(parts) < BLOCKS:
        return value, None
    jackknife = float(np.sqrt((BLOCKS - 1) / BLOCKS * ((parts - parts.mean()) ** 2).sum()))
    return value, max(jackknife, _independent_error(use_case, sample))


def _independent_error(use_case: UseCase, sample: Sample) -> float:
    """The standard error of a metric that is a mean over its units, as if these were independent; 0 for any other."""
    settings = use_case.evaluation
    if not METRICS[settings.metric].is_mean:
        return 0.0
    parts = metrics.contributions(settings.metric, sample, k=settings.k, threshold=settings.threshold)
    if parts is None or parts.finish is not metrics.mean or parts.units < 2:
        return 0.0
    return float(np.std(parts.values[:, 0], ddof=1) / np.sqrt(parts.units))


def estimate_metric(use_case: UseCase, served: pa.Table, reference: Reference) -> float | None:
    """The expected metric of the window's scores, without labels; None unless there is one objective, and it is binary.

    Scores are first replaced by the reference's mean label at that score: the estimate is right while these still hold.
    """
    if (
        use_case.framing != "binary"
        or len(use_case.objectives) != 1
        or served.num_rows < use_case.monitoring.minimum_rows
    ):
        return None
    label, scores = reference.label(use_case.objectives[0].name), score_of(use_case, served)
    if scores is None or label is None or label.kind != "binary" or not label.label_means:
        return None
    scores = scores[np.isfinite(scores) & evaluated_rows(use_case, served)]
    chance = calibrate(label, scores)
    return expected_metric(use_case.evaluation.metric, scores, chance, use_case.evaluation.threshold)


def expected_metric(name: str, scores: Floats, chance: Floats, threshold: float) -> float | None:
    """The expected metric of scores[n] if row i's label is 1 with probability chance[i]; None if it is undefined."""
    if len(scores) == 0 or name not in _EXPECTED:
        return None
    return _EXPECTED[name](scores, chance, threshold)


def _expected_accuracy(scores: Floats, chance: Floats, threshold: float) -> float:
    return float(np.where(scores >= threshold, chance, 1 - chance).mean())


def _expected_f1(scores: Floats, chance: Floats, threshold: float) -> float | None:
    predicted = scores >= threshold
    right, wrong = chance[predicted].sum(), (1 - chance[predicted]).sum() + chance[~predicted].sum()
    return float(2 * right / (2 * right + wrong)) if right + wrong > 0 else None


def _expected_brier(scores: Floats, chance: Floats, threshold: float) -> float:
    return float((chance * (1 - scores) ** 2 + (1 - chance) * scores**2).mean())


def _expected_log_loss(scores: Floats, chance: Floats, threshold: float) -> float:
    p = np.clip(scores, 1e-15, 1 - 1e-15)
    return float(-(chance * np.log(p) + (1 - chance) * np.log1p(-p)).mean())


def _expected_auc(scores: Floats, chance: Floats, threshold: float) -> float | None:
    if not 0 < chance.sum() < len(chance):
        return None
    positive, negative = _weights_by_score(scores, chance)
    below = negative.sum() - np.cumsum(negative) + negative / 2
    own = float((chance * (1 - chance)).sum())  # a row against itself is no pair
    pairs = float(positive.sum() * negative.sum()) - own
    return float(((positive * below).sum() - own / 2) / pairs) if pairs > 0 else None


def _expected_average_precision(scores: Floats, chance: Floats, threshold: float) -> float | None:
    if not 0 < chance.sum() < len(chance):
        return None
    positive, negative = _weights_by_score(scores, chance)
    precision = np.cumsum(positive) / np.cumsum(positive + negative)
    return float((precision * positive).sum() / positive.sum())


def _weights_by_score(scores: Floats, chance: Floats) -> tuple[Floats, Floats]:
    """(positives, negatives) of each distinct score, highest first: a row is `chance` positives, 1 − `chance` negatives."""
    _, tied = np.unique(-scores, return_inverse=True)
    return np.asarray(np.bincount(tied, chance), np.float64), np.asarray(np.bincount(tied, 1 - chance), np.float64)


_EXPECTED: Final[dict[str, Callable[[Floats, Floats, float], float | None]]] = {
    "accuracy": _expected_accuracy,
    "f1": _expected_f1,
    "brier": _expected_brier,
    "log_loss": _expected_log_loss,
    "auc": _expected_auc,
    "average_precision": _expected_average_precision,
}


def business_figures(use_case: UseCase, served: pa.Table, *, now: datetime) -> dict[str, float]:
    """Each business figure over the matured rows with a known label, in its unit; 0 if there are none."""
    return {figure.name: _business_figure(use_case, served, figure, now) for figure in use_case.business}


def _business_figure(use_case: UseCase, served: pa.Table, figure: BusinessFigure, now: datetime) -> float:
    label = use_case.label(figure.label or label_of(use_case))
    keep = cohorts.matured(served, now=now, delay=label.delay) & cohorts.labelled(served, label.name)
    if label.type == "category" or not keep.any():
        return 0.0
    labels = floats(served[f"label:{label.name}"])[keep]
    if figure.outcome == "label":
        amount = labels
    else:
        objective = next((item.name for item in use_case.objectives if item.label == label.name), None)
        scores = score_of(use_case, served, objective)
        if scores is None:
            return 0.0
        predicted, actual = scores[keep] >= use_case.evaluation.threshold, labels > 0
        kind, sign = figure.outcome.split("_")
        amount = (((predicted == actual) == (kind == "true")) & (predicted == (sign == "positive"))).astype(np.float64)
    if figure.field is not None:
        amount = amount * np.nan_to_num(floats(served[figure.field]))[keep]
    return float(figure.value * amount.sum())
