"""How well the champion does, as far as is known: on matured rows, by an estimate meanwhile, and in money.

The estimate is CBPE (confidence-based performance estimation, NannyML): where a score says how likely the label is, the
confusion matrix that it will make can be expected before the labels come. It holds while what a score means holds, so
it sees a covariate shift and is blind to a concept shift: it never takes part in a diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.evaluation import metrics
from evermodel.monitoring import binning, cohorts
from evermodel.monitoring.drift import Reference
from evermodel.monitoring.label_shift import calibrated
from evermodel.monitoring.statistics import Floats
from evermodel.use_case import BusinessFigure, UseCase

BLOCKS = 10
CONFIDENT = 1.645  # standard errors of a one-sided 5 % test


@dataclass(frozen=True)
class Performance:
    """The metric on matured rows with its standard error, and whether it fell from the reference's."""

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
    """An objective's scores (absent: the combined ones) → float64[n]; None where the table doesn't hold them."""
    names = [f"score:{objective}"] if objective else ["score", f"score:{use_case.objectives[0].name}"]
    name = next((name for name in names if name in served.column_names), None)
    return None if name is None else binning.numbers(served[name])


def first_classes(served: pa.Table) -> pa.Array | None:
    """The class that each answer put first (null: none), of `classes`, a list of names a row, best first."""
    if "classes" not in served.column_names:
        return None
    lists = pc.cast(served["classes"], pa.list_(pa.string())).combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    length = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    at = pa.array(lists.offsets.to_numpy()[:-1], mask=length == 0)
    return lists.values.take(at)


def judge(use_case: UseCase, served: pa.Table, reference: Reference, *, now: datetime) -> Performance:
    """The use case's metric on the matured rows whose label is known; value None where they are too few."""
    name, settings = use_case.evaluation.metric, use_case.monitoring
    label = use_case.label(metrics.label_of(use_case))
    keep = cohorts.matured(served, now=now, delay=label.delay) & cohorts.labelled(served, label.name)
    rows = int(keep.sum())
    unknown = Performance(name, rows, None, None, reference.performance, None)
    if rows < settings.minimum_rows:
        return unknown
    matured = served if keep.all() else served.filter(pa.array(keep))
    if label.type == "category":
        found = metrics.by_place(matured) if name in metrics.BY_PLACE else None
    else:
        combined = score_of(use_case, matured)
        found = None if combined is None else (combined, ())
    if found is None:
        return unknown
    value, error = _with_error(use_case, matured, *found)
    if value is None or reference.performance is None:
        return Performance(name, rows, value, error, reference.performance, None)
    drop = metrics.sign(name) * (reference.performance - value)
    dropped = drop >= settings.performance_drop and (error is None or drop >= CONFIDENT * error)
    fall = None if not error else drop / error
    return Performance(name, rows, value, error, reference.performance, dropped, fall)


def _with_error(
    use_case: UseCase, rows: pa.Table, scores: Floats, classes: tuple[str, ...]
) -> tuple[float | None, float | None]:
    """The metric and its standard error: the jackknife's over ten blocks of time (Künsch 1989), at least that of a mean.

    Blocks, because rows that follow each other err together. A list of a ranking stays whole. Ten blocks may happen to
    agree: where the metric is a mean over rows, its error can't be below what independent rows have.
    """
    settings = use_case.evaluation
    keep = metrics.judged(use_case, rows)
    kept = rows if keep.all() else rows.filter(pa.array(keep))
    known = metrics.sample_of(use_case, kept, scores[keep], classes=classes)

    def of(part: metrics.Sample) -> float | None:
        return metrics.figure(settings.metric, part, k=settings.k, threshold=settings.threshold)

    value = of(known)
    if value is None or len(known) < 2 * BLOCKS:
        return value, None
    positions = np.arange(len(known))
    unit = positions if known.groups is None else known.groups
    cuts = np.quantile(np.unique(unit), np.linspace(0, 1, BLOCKS + 1)[1:-1])
    block = np.searchsorted(cuts, unit, side="right")
    without = [of(_part(known, block != number)) for number in range(BLOCKS)]
    parts = np.array([figure for figure in without if figure is not None])
    if len(parts) < BLOCKS:
        return value, None
    return value, max(
        float(np.sqrt((BLOCKS - 1) / BLOCKS * ((parts - parts.mean()) ** 2).sum())), _of_mean(use_case, known)
    )


def _of_mean(use_case: UseCase, known: metrics.Sample) -> float:
    """The standard error of a metric that is a mean over its units, as if these were independent; 0 of any other."""
    settings = use_case.evaluation
    if settings.metric in metrics.ORDER_METRICS:
        return 0.0
    parts = metrics.contributions(settings.metric, known, k=settings.k, threshold=settings.threshold)
    if parts is None or parts.finish is not metrics.mean or parts.units < 2:
        return 0.0
    return float(np.std(parts.values[:, 0], ddof=1) / np.sqrt(parts.units))


def _part(known: metrics.Sample, keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> metrics.Sample:
    groups = None if known.groups is None else known.groups[keep]
    return metrics.Sample(known.scores[keep], known.labels[keep], groups, known.classes)


def estimate(use_case: UseCase, served: pa.Table, reference: Reference) -> float | None:
    """The metric that the window's scores promise, labels unseen. None but for one binary objective's probabilities.

    Scores are first read as the reference's label means at that score; so it is right where those still hold.
    """
    if (
        use_case.framing != "binary"
        or len(use_case.objectives) != 1
        or served.num_rows < use_case.monitoring.minimum_rows
    ):
        return None
    known, scores = reference.label(use_case.objectives[0].name), score_of(use_case, served)
    if scores is None or known is None or known.kind != "binary" or not known.label_means:
        return None
    keep = np.isfinite(scores) & metrics.judged(use_case, served)
    return expected(
        use_case.evaluation.metric, scores[keep], calibrated(known, scores[keep]), use_case.evaluation.threshold
    )


def expected(metric: str, scores: Floats, chance: Floats, threshold: float) -> float | None:
    """The metric of scores[n] to expect where row i's label is 1 with probability chance[i]. None: not defined."""
    if len(scores) == 0:
        return None
    said = scores >= threshold
    if metric == "accuracy":
        return float(np.where(said, chance, 1 - chance).mean())
    if metric == "f1":
        right, wrong = chance[said].sum(), (1 - chance[said]).sum() + chance[~said].sum()
        return float(2 * right / (2 * right + wrong)) if right + wrong > 0 else None
    if metric == "brier":
        return float((chance * (1 - scores) ** 2 + (1 - chance) * scores**2).mean())
    if metric == "log_loss":
        p = np.clip(scores, 1e-15, 1 - 1e-15)
        return float(-(chance * np.log(p) + (1 - chance) * np.log1p(-p)).mean())
    if metric not in metrics.ORDER_METRICS or not 0 < chance.sum() < len(chance):
        return None
    # Weighted: each row counts as `chance` positives and 1 − `chance` negatives of the same score.
    _, tied = np.unique(-scores, return_inverse=True)
    positive, negative = np.bincount(tied, chance), np.bincount(tied, 1 - chance)
    if metric == "auc":
        below = negative.sum() - np.cumsum(negative) + negative / 2
        own = float((chance * (1 - chance)).sum())  # a row against itself is no pair
        pairs = float(positive.sum() * negative.sum()) - own
        return float(((positive * below).sum() - own / 2) / pairs) if pairs > 0 else None
    precision = np.cumsum(positive) / np.cumsum(positive + negative)
    return float((precision * positive).sum() / positive.sum())


def business(use_case: UseCase, served: pa.Table, *, now: datetime) -> dict[str, float]:
    """Each business figure over the matured rows with a known label, in its unit; 0 where there are none."""
    return {figure.name: _figure(use_case, served, figure, now) for figure in use_case.business}


def _figure(use_case: UseCase, served: pa.Table, figure: BusinessFigure, now: datetime) -> float:
    label = use_case.label(figure.label or metrics.label_of(use_case))
    keep = cohorts.matured(served, now=now, delay=label.delay) & cohorts.labelled(served, label.name)
    if label.type == "category" or not keep.any():
        return 0.0
    labels = binning.numbers(served[f"label:{label.name}"])[keep]
    if figure.outcome == "label":
        amount = labels
    else:
        objective = next((item.name for item in use_case.objectives if item.label == label.name), None)
        scores = score_of(use_case, served, objective)
        if scores is None:
            return 0.0
        said, was = scores[keep] >= use_case.evaluation.threshold, labels > 0
        kind, sign = figure.outcome.split("_")
        amount = (((said == was) == (kind == "true")) & (said == (sign == "positive"))).astype(np.float64)
    if figure.field is not None:
        amount = amount * np.nan_to_num(binning.numbers(served[figure.field]))[keep]
    return float(figure.value * amount.sum())
