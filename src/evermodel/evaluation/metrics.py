"""The figures of a framing, of scores and the labels that came true. What isn't defined is None, never a number.

Every metric but AUC and average precision is a function of means over its units (rows, or the lists of a ranking):
`contributions` gives a unit's part, so that a bootstrap is a resample of numbers, not of models. Undefined are: no row
with a known label, one class alone (AUC, average precision), no positive label and none predicted (F1), scores that
are no probabilities (log loss, Brier, ECE), labels below zero (RMSLE, NDCG), no list with anything relevant (ranking).

Ties in a ranking get the expected value over all orders of the tied (see `ranking`). A label that the model has no
class for counts as a miss. `hr` and `ndcg` look at the first k places, `mrr` at all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from evermodel.errors import DataError, nearest
from evermodel.evaluation import calibration, ranking
from evermodel.use_case import LESS_IS_BETTER, METRICS, UseCase

Floats = NDArray[np.float64]
Labels: TypeAlias = Any  # arrow array, numpy array or sequence; null and NaN are unknown
ORDER_METRICS: Final = frozenset({"auc", "average_precision"})
# These need only the order of the classes:
BY_PLACE: Final = frozenset({"accuracy", "top_k", "f1_macro", "hr", "mrr", "ndcg"})
_TINY: Final = float(np.finfo(np.float64).eps)  # as scikit-learn clips probabilities


@dataclass(frozen=True)
class Sample:
    """Scores and known labels of the same rows.

    scores: float64[n], or float64[n, C] where a row has a score for each class. labels: float64[n], or int64[n], the
    place in `classes`, which holds the model's C classes and after them those it doesn't know. groups: int64[n] or None.
    """

    scores: Floats
    labels: NDArray[Any]
    groups: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, keep: NDArray[np.bool_]) -> Sample:
        """The rows where `keep`, bool[n], holds."""
        groups = None if self.groups is None else self.groups[keep]
        return Sample(self.scores[keep], self.labels[keep], groups, self.classes)


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


def sample(scores: Floats, labels: Labels, *, groups: Any = None, classes: Sequence[str] = ()) -> Sample:
    """Rows with a known label (not null, not NaN). DataError where the shapes don't fit each other."""
    scores = np.asarray(scores, dtype=np.float64)
    if len(scores) != len(labels):
        raise DataError(f"{len(scores)} scores for {len(labels)} labels")
    if scores.ndim == 2 and scores.shape[1] != len(classes):
        raise DataError(f"scores of {scores.shape[1]} classes, and {len(classes)} names")
    column = labels if isinstance(labels, pa.Array | pa.ChunkedArray) else pa.array(labels, from_pandas=True)
    known = (
        ~np.asarray(pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False))
        if len(column)
        else np.empty(0, bool)
    )
    codes = None if groups is None else _codes(groups)[known]
    kept = column.filter(pa.array(known))
    if scores.ndim == 1:
        return Sample(scores[known], np.asarray(kept.cast(pa.float64()).to_numpy(), np.float64), codes, ())
    names = [str(value) for value in kept.to_pylist()]
    everything = (*classes, *sorted(set(names) - set(classes)))
    place = {name: index for index, name in enumerate(everything)}
    return Sample(scores[known], np.array([place[name] for name in names], dtype=np.int64), codes, everything)


def _codes(groups: Any) -> NDArray[np.int64]:
    column = groups if isinstance(groups, pa.Array | pa.ChunkedArray) else pa.array(groups)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return np.asarray(pc.dictionary_encode(column, null_encoding="encode").indices.to_numpy(), dtype=np.int64)


def metric(
    name: str,
    scores: Floats,
    labels: Labels,
    *,
    groups: Any = None,
    classes: Sequence[str] = (),
    k: int = 10,
    threshold: float = 0.5,
) -> float | None:
    """One figure: scores[n] or [n, C], labels[n] with nulls where unknown. None where it isn't defined."""
    return figure(name, sample(scores, labels, groups=groups, classes=classes), k=k, threshold=threshold)


def figure(name: str, known: Sample, *, k: int = 10, threshold: float = 0.5) -> float | None:
    """One figure of a sample; None where it isn't defined."""
    if name in ORDER_METRICS:
        return _order_metric(name, known)
    parts = contributions(name, known, k=k, threshold=threshold)
    if parts is None:
        return None
    value = parts.figure()
    return value if np.isfinite(value) else None


def figures(use_case: UseCase, known: Sample) -> dict[str, float | None]:
    """All figures of the use case's framing."""
    settings = use_case.evaluation
    return {name: figure(name, known, k=settings.k, threshold=settings.threshold) for name in METRICS[use_case.framing]}


def metric_of(use_case: UseCase, served: pa.Table, *, name: str | None = None) -> float | None:
    """The use case's metric (or `name`) of served rows, by their `score` or `classes`: judged rows with a known label.

    None where it isn't defined, and where it needs the scores of categories, of which served rows keep the order only.
    """
    settings = use_case.evaluation
    wanted = name or settings.metric
    rows = served.filter(pa.array(judged(use_case, served)))
    if "score" in rows.column_names:
        known = sample_of(use_case, rows, rows["score"].to_numpy())
    elif wanted in BY_PLACE and (answered := by_place(rows)) is not None:
        known = sample_of(use_case, rows, answered[0], classes=answered[1])
    else:
        return None
    return figure(wanted, known, k=settings.k, threshold=settings.threshold)


def by_place(served: pa.Table) -> tuple[Floats, tuple[str, ...]] | None:
    """The places in `classes` (names, best first) as scores [n, C]: 1, 1/2, 1/3, …, and 0 of those not answered."""
    if "classes" not in served.column_names:
        return None
    lists = served["classes"].to_pylist()
    names = tuple(sorted({name for row in lists for name in row or ()}))
    place = {name: index for index, name in enumerate(names)}
    scores = np.zeros((len(lists), len(names)))
    for scored, row in zip(scores, lists, strict=True):
        scored[[place[name] for name in row or ()]] = 1 / np.arange(1, len(row or ()) + 1)
    return scores, names


def label_of(use_case: UseCase) -> str:
    """The label that a release is judged by: the first objective's."""
    return use_case.objectives[0].label


def sample_of(use_case: UseCase, rows: pa.Table, scores: Floats, *, classes: Sequence[str] = ()) -> Sample:
    """The sample of a rows table: the first objective's label, the groups of the prediction source."""
    group = use_case.predict.group
    groups = rows[group] if use_case.framing == "ranking" and np.ndim(scores) == 1 and group else None
    return sample(scores, rows[f"label:{label_of(use_case)}"], groups=groups, classes=classes)


def judged(use_case: UseCase, rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows `evaluation.rows` asks for: bool[n]."""
    keep = np.ones(rows.num_rows, dtype=bool)
    for column, value in use_case.evaluation.rows.items():
        wanted = pa.scalar(value).cast(rows.schema.field(column).type)
        keep &= pc.fill_null(pc.equal(rows[column], wanted), False).to_numpy().astype(bool)
    return keep


def calibrated(known: Sample) -> tuple[Floats, Floats] | None:
    """(score, outcome 0 or 1) of each row, of the top class where there are many; None where scores are no probabilities."""
    if not len(known) or not probabilities(known.scores):
        return None
    if known.scores.ndim == 2:
        return calibration.top_class(known.scores, known.labels)
    binary = ((known.labels == 0) | (known.labels == 1)).all()
    return (known.scores, known.labels) if binary else None


def calibration_error(known: Sample) -> float | None:
    """The expected calibration error; None where the scores are no probabilities."""
    pair = calibrated(known)
    return None if pair is None else calibration.expected_calibration_error(*pair)


def sign(name: str) -> float:
    """+1 where more is better, −1 where less is: differences are multiplied by it."""
    return -1.0 if name in LESS_IS_BETTER else 1.0


# parts --------------------------------------------------------------------------------------------------------------


def contributions(name: str, known: Sample, *, k: int = 10, threshold: float = 0.5) -> Contributions | None:
    """The metric's parts by unit; None where it isn't defined. ValueError for AUC and average precision."""
    if name in ORDER_METRICS:
        raise ValueError(f"{name} is no function of means; resample its rows by `bootstrap.order_statistic`")
    if not len(known):
        return None
    if name in ranking.RANKING:
        return _ranking(name, known, k)
    if known.scores.ndim == 2:
        return _of_classes(name, known, k)
    if name not in _OF_NUMBERS:
        raise ValueError(f"{name!r} is no metric of one score a row; {nearest(name, (*_OF_NUMBERS, *ORDER_METRICS))}")
    return _OF_NUMBERS[name](known.scores, known.labels, threshold)


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
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _single(values: Floats) -> Contributions:
    return Contributions(values[:, None], mean)


def probabilities(scores: Floats) -> bool:
    """Whether all lie in [0, 1]."""
    return bool(((scores >= 0) & (scores <= 1)).all())


def _accuracy(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return _single(((scores >= threshold) == (labels > 0)).astype(np.float64))


def _log_loss(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    if not probabilities(scores):
        return None
    scores = np.clip(scores, _TINY, 1 - _TINY)
    return _single(-np.where(labels > 0, np.log(scores), np.log1p(-scores)))


def _brier(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return _single((scores - labels) ** 2) if probabilities(scores) else None


def _ece(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    """Each row's label − score in its bin's column: ECE = Σ |column means|."""
    if not probabilities(scores):
        return None
    place = (np.arange(len(scores)), calibration.bin_of(scores))
    values = sparse.csr_array((labels - scores, place), shape=(len(scores), calibration.BINS))
    return Contributions(values, lambda means: np.abs(means).sum(axis=1))


def _binary_f1(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    said, was = scores >= threshold, labels > 0
    return Contributions(np.column_stack([said & was, said ^ was]).astype(np.float64), _f1)


def _mae(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return _single(np.abs(scores - labels))


def _rmse(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    return Contributions(((scores - labels) ** 2)[:, None], _root)


def _rmsle(scores: Floats, labels: Floats, threshold: float) -> Contributions | None:
    """A prediction below zero counts as zero: the labels can't be lower."""
    if (labels < 0).any():
        return None
    return Contributions(((np.log1p(np.maximum(scores, 0.0)) - np.log1p(labels)) ** 2)[:, None], _root)


_OF_NUMBERS: Final[dict[str, Callable[[Floats, Floats, float], Contributions | None]]] = {
    "accuracy": _accuracy,
    "log_loss": _log_loss,
    "brier": _brier,
    "ece": _ece,
    "f1": _binary_f1,
    "mae": _mae,
    "rmse": _rmse,
    "rmsle": _rmsle,
}


def _ranking(name: str, known: Sample, k: int) -> Contributions | None:
    if known.scores.ndim == 2:
        return _single(ranking.catalogue(known.scores, known.labels, k=k)[name])
    if known.groups is None:
        raise DataError(f"{name} needs lists: name the column that holds them as predict.group")
    if (known.labels < 0).any():
        return None
    values = ranking.grouped(known.scores, known.labels, known.groups, k=k)[name]
    return _single(values) if len(values) else None


def _of_classes(name: str, known: Sample, k: int) -> Contributions | None:
    scores, codes = known.scores, known.labels
    if name == "accuracy":
        return _single(calibration.top_class(scores, codes)[1])
    if name == "top_k":
        return _single(ranking.catalogue(scores, codes, k=k)["hr"])
    if name == "log_loss":
        return _classes_log_loss(scores, codes)
    if name == "ece":
        confidence, right = calibration.top_class(scores, codes)
        return _ece(confidence, right, 0.5)
    if name == "f1_macro":
        return _f1_macro(scores.argmax(axis=1), codes, len(known.classes))
    raise ValueError(f"{name!r} is no metric of classes; {nearest(name, METRICS['multiclass'])}")


def _classes_log_loss(scores: Floats, codes: NDArray[np.int64]) -> Contributions | None:
    total = scores.sum(axis=1)
    if not probabilities(scores) or not (total > 0).all():
        return None
    known = codes < scores.shape[1]
    own = np.where(known, scores[np.arange(len(codes)), np.where(known, codes, 0)] / total, 0.0)
    return _single(-np.log(np.clip(own, _TINY, 1.0)))


def _f1_macro(said: NDArray[np.int64], was: NDArray[np.int64], num_classes: int) -> Contributions:
    """The mean F1 of the classes that were said or were right, as scikit-learn's. Columns: TP, then FP + FN, a class each."""
    row, right = np.arange(len(was)), said == was
    columns = np.r_[was[right], said[~right] + num_classes, was[~right] + num_classes]
    rows = np.r_[row[right], row[~right], row[~right]]
    values = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(was), 2 * num_classes))

    def finish(means: Floats) -> Floats:
        true, wrong = means[:, :num_classes], means[:, num_classes:]
        seen = (true + wrong) > 0
        return ratio(
            np.where(seen, 2 * true / np.where(seen, 2 * true + wrong, 1.0), 0.0).sum(axis=1),
            seen.sum(axis=1).astype(np.float64),
        )

    return Contributions(values, finish)


def _order_metric(name: str, known: Sample) -> float | None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    positive = known.labels > 0
    if not len(known) or positive.all() or not positive.any():
        return None
    score = roc_auc_score if name == "auc" else average_precision_score
    return float(score(positive, known.scores))
