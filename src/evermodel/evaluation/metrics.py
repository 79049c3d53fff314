"""The metrics of a framing. An undefined metric is None, never a number.

Every metric but AUC and average precision is a function of means over its units (rows, or the lists of a ranking):
`contributions` gives the part of each unit, so that a bootstrap resamples numbers and no model. Undefined are: no row
with a known label, one class alone (AUC, average precision), no positive label and none predicted (F1), scores that
are no probabilities (log loss, Brier, ECE), labels below zero (RMSLE, NDCG), no list with anything relevant (ranking).

Ties in a ranking get the expected value over all orders of the tied (see `ranking`). `hr` and `ndcg` use the first k
places, `mrr` all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from evermodel.errors import DataError, nearest
from evermodel.evaluation import calibration, ranking
from evermodel.evaluation.samples import Ints, Sample, evaluated_rows, sample_of, served_scores
from evermodel.use_case import METRICS, UseCase, metric_names

Floats = NDArray[np.float64]
_TINY: Final = float(np.finfo(np.float64).eps)  # as scikit-learn clips probabilities


@dataclass(frozen=True)
class Contributions:
    """A metric as finish(mean over units of values): values float64[units, m], maybe sparse; finish [b, m] → [b]."""

    values: Any
    finish: Callable[[Floats], Floats]

    @property
    def units(self) -> int:
        return int(self.values.shape[0])

    def figure(self) -> float:
        mean = np.asarray(self.values.mean(axis=0), dtype=np.float64).reshape(1, -1)
        return float(self.finish(mean)[0])


def figure(name: str, sample: Sample, *, k: int = 10, threshold: float = 0.5) -> float | None:
    """One metric of a sample; None if it is undefined."""
    if name in METRICS and not METRICS[name].is_mean:
        return _order_metric(name, sample)
    parts = contributions(name, sample, k=k, threshold=threshold)
    if parts is None:
        return None
    value = parts.figure()
    return value if np.isfinite(value) else None


def figures(use_case: UseCase, sample: Sample) -> dict[str, float | None]:
    """All metrics of the use case's framing."""
    settings = use_case.evaluation
    return {
        name: figure(name, sample, k=settings.k, threshold=settings.threshold)
        for name in metric_names(use_case.framing)
    }


def metric_of(use_case: UseCase, served: pa.Table, *, name: str | None = None) -> float | None:
    """The use case's metric (or `name`) of served rows: those of `evaluation.rows` with a known label.

    None if it is undefined, or if it needs the scores of a category, of which served rows hold the order only.
    """
    settings = use_case.evaluation
    wanted = name or settings.metric
    rows = served.filter(pa.array(evaluated_rows(use_case, served)))
    scores = served_scores(use_case, rows)
    if scores is None or (scores.is_category and not METRICS[wanted].needs_only_places):
        return None
    return figure(wanted, sample_of(use_case, rows, scores), k=settings.k, threshold=settings.threshold)


def calibration_pairs(sample: Sample) -> tuple[Floats, Floats] | None:
    """(score, outcome 0 or 1) of each row, for a category of its top class; None if a score is no probability."""
    values = sample.scores.values
    if not len(sample) or not are_probabilities(values):
        return None
    if sample.is_category:
        return calibration.top_class(values, sample.labels)
    binary = ((sample.labels == 0) | (sample.labels == 1)).all()
    return (values, sample.labels) if binary else None


def calibration_error(sample: Sample) -> float | None:
    """The expected calibration error; None if the scores are no probabilities."""
    pairs = calibration_pairs(sample)
    return None if pairs is None else calibration.expected_calibration_error(*pairs)


# parts --------------------------------------------------------------------------------------------------------------


def contributions(name: str, sample: Sample, *, k: int = 10, threshold: float = 0.5) -> Contributions | None:
    """The metric's parts by unit; None if it is undefined. ValueError for a metric that is no function of means."""
    if name in METRICS and not METRICS[name].is_mean:
        raise ValueError(f"{name} is no function of means; resample its rows by `bootstrap.order_statistic`")
    if not len(sample):
        return None
    if name in METRICS and "ranking" in METRICS[name].framings:
        return _ranking(name, sample, k)
    if sample.is_category:
        return _class_metric(name, sample, k)
    if name not in _NUMBER_METRICS:
        raise ValueError(f"{name!r} is no metric of one score a row; {nearest(name, _NUMBER_METRICS)}")
    return _NUMBER_METRICS[name](sample.scores.values, sample.labels, threshold)


def mean(means: Floats) -> Floats:
    """The finish of a metric that is a plain mean."""
    return means[:, 0]


def _root(means: Floats) -> Floats:
    return np.sqrt(means[:, 0])


def _f1(means: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN), of columns TP and FP + FN."""
    true, wrong = means[:, 0], means[:, 1]
    return ratio(2 * true, 2 * true + wrong)


def ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN if below is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _single(values: Floats) -> Contributions:
    return Contributions(values[:, None], mean)


def are_probabilities(scores: Floats) -> bool:
    """Whether all lie in [0, 1]."""
    return bool(((scores >= 0) & (scores <= 1)).all())


def _accuracy(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return _single(((scores >= threshold) == (labels > 0)).astype(np.float64))


def _log_loss(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    if not are_probabilities(scores):
        return None
    scores = np.clip(scores, _TINY, 1 - _TINY)
    return _single(-np.where(labels > 0, np.log(scores), np.log1p(-scores)))


def _brier(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return _single((scores - labels) ** 2) if are_probabilities(scores) else None


def _ece(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    """Each row's label − score in its bin's column: ECE = Σ |column means|."""
    if not are_probabilities(scores):
        return None
    place = (np.arange(len(scores)), calibration.bin_of(scores))
    values = sparse.csr_array((labels - scores, place), shape=(len(scores), calibration.BINS))
    return Contributions(values, lambda means: np.abs(means).sum(axis=1))


def _binary_f1(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    predicted, actual = scores >= threshold, labels > 0
    return Contributions(np.column_stack([predicted & actual, predicted ^ actual]).astype(np.float64), _f1)


def _mae(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return _single(np.abs(scores - labels))


def _rmse(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return Contributions(((scores - labels) ** 2)[:, None], _root)


def _rmsle(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    """A prediction below zero counts as zero: the labels can't be lower."""
    if (labels < 0).any():
        return None
    return Contributions(((np.log1p(np.maximum(scores, 0.0)) - np.log1p(labels)) ** 2)[:, None], _root)


_NUMBER_METRICS: Final[dict[str, Callable[[Floats, Floats, float], Contributions | None]]] = {
    "accuracy": _accuracy,
    "log_loss": _log_loss,
    "brier": _brier,
    "ece": _ece,
    "f1": _binary_f1,
    "mae": _mae,
    "rmse": _rmse,
    "rmsle": _rmsle,
}


def _ranking(name: str, sample: Sample, k: int) -> Contributions | None:
    scores, labels = sample.scores.values, sample.labels
    if sample.is_category:
        return _single(ranking.catalogue(scores, labels, k=k)[name])
    if sample.groups is None:
        raise DataError(f"{name} needs lists: name the column that holds them as predict.group")
    if (labels < 0).any():
        return None
    values = ranking.grouped(scores, labels, sample.groups, k=k)[name]
    return _single(values) if len(values) else None


def _class_metric(name: str, sample: Sample, k: int) -> Contributions | None:
    scores, codes = sample.scores.values, sample.labels
    if name == "accuracy":
        return _single(calibration.top_class(scores, codes)[1])
    if name == "top_k":
        return _single(ranking.catalogue(scores, codes, k=k)["hr"])
    if name == "log_loss":
        return _class_log_loss(scores, codes)
    if name == "ece":
        confidence, right = calibration.top_class(scores, codes)
        return _ece(confidence, right, 0.5)
    if name == "f1_macro":
        return _f1_macro(scores.argmax(axis=1), codes, len(sample.classes))
    raise ValueError(f"{name!r} is no metric of classes; {nearest(name, metric_names('multiclass'))}")


def _class_log_loss(scores: Floats, codes: Ints) -> Contributions | None:
    total = scores.sum(axis=1)
    if not are_probabilities(scores) or not (total > 0).all():
        return None
    known = codes < scores.shape[1]
    own = np.where(known, scores[np.arange(len(codes)), np.where(known, codes, 0)] / total, 0.0)
    return _single(-np.log(np.clip(own, _TINY, 1.0)))


def _f1_macro(predicted: Ints, actual: Ints, num_classes: int) -> Contributions:
    """The mean F1 of the classes that occur in either, as scikit-learn's. Columns: TP, then FP + FN, one for each class."""
    row, right = np.arange(len(actual)), predicted == actual
    columns = np.r_[actual[right], predicted[~right] + num_classes, actual[~right] + num_classes]
    rows = np.r_[row[right], row[~right], row[~right]]
    values = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(actual), 2 * num_classes))

    def finish(means: Floats) -> Floats:
        true, wrong = means[:, :num_classes], means[:, num_classes:]
        occurs = (true + wrong) > 0
        return ratio(
            np.where(occurs, 2 * true / np.where(occurs, 2 * true + wrong, 1.0), 0.0).sum(axis=1),
            occurs.sum(axis=1).astype(np.float64),
        )

    return Contributions(values, finish)


def _order_metric(name: str, sample: Sample) -> float | None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    positive = sample.labels > 0
    if not len(sample) or positive.all() or not positive.any():
        return None
    score = roc_auc_score if name == "auc" else average_precision_score
    return float(score(positive, sample.scores.values))
