"""Labels and scores together: did the base rate move, or the meaning of a score?

A `LabelReference` holds the joint counts of (label bin, score bin) over rows that the champion scored. A window's
joint counts are compared in three ways. Each is a test of homogeneity on counts, so no row of the reference is kept:

- base: the label's own shares;
- conditional: P(score | label) in each label bin. It is stable if only the base rate moves (label shift);
- calibration: P(label | score) in each score bin. It is stable if only the inputs move (covariate shift), and moves
  with the concept. (For the terms see Lipton et al. 2018 and Moreno-Torres et al. 2012.)

Labels and residuals are correlated in time, so rows carry less information than their number suggests. Statistics are
divided by a dispersion that is measured on the reference (quasi-likelihood; McCullagh & Nelder 1989, 4.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.columns import codes_in, floats, valid_mask
from evermodel.monitoring import binning, statistics
from evermodel.monitoring.binning import Ints
from evermodel.monitoring.statistics import Floats
from evermodel.records import Artifact

SCORE_BINS = 10
LABEL_BINS = 4  # of a number label
_TINY = 1e-7
LABEL_CLASSES = 50  # of a category label: the most frequent; all others count as one
ENOUGH_SPANS = 8  # the dispersion needs at least so many spans of the monitoring window's length

Predictions: TypeAlias = Any  # Floats, one score a row; of a category pa.Array of text, the best class of each row


class LabelReference(Artifact):
    """One objective's label against its score, on rows that the champion scored."""

    objective: str
    label: str
    kind: Literal["binary", "number", "category"]
    label_edges: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    score_edges: tuple[float, ...] = ()  # empty for a category: a bin is the best class
    joint: tuple[tuple[int, ...], ...]  # [label bin][score bin]
    score_means: tuple[float, ...] = ()  # mean score and mean label of each score bin with rows
    label_means: tuple[float, ...] = ()
    columns: dict[str, tuple[tuple[int, ...], ...]] = {}  # noqa: RUF012 — [label bin][bin of the column]
    base: float | None = None  # mean label; None for a category
    loss: float | None = None  # log loss, squared error
    dispersion: float = 1.0
    residual_dispersion: float = 1.0

    @property
    def rows(self) -> int:
        return sum(map(sum, self.joint))


@dataclass(frozen=True)
class Comparison:
    """A window's labelled rows against the reference. A p of 1 is no evidence of a move."""

    objective: str
    rows: int
    base: float | None
    reference_base: float | None
    base_distance: float  # Jensen–Shannon, of the label's shares
    base_p: float
    conditional_p: float
    calibration_p: float
    calibration_shift: float  # mean |label − the reference's label at this score|, signed within a bin
    loss: float | None
    reference_loss: float | None
    label_counts: Ints

    def evidence(self) -> dict[str, float]:
        found = {
            "rows": float(self.rows),
            "base": self.base,
            "base_reference": self.reference_base,
            "base_distance": self.base_distance,
            "base_p": self.base_p,
            "conditional_p": self.conditional_p,
            "calibration_p": self.calibration_p,
            "calibration_shift": self.calibration_shift,
            "loss": self.loss,
            "loss_reference": self.reference_loss,
        }
        return {key: float(value) for key, value in found.items() if value is not None and np.isfinite(value)}


def _label_codes(labels: pa.ChunkedArray, kind: str, edges: tuple[float, ...], classes: tuple[str, ...]) -> Ints:
    """Bin of each known label → int64[n]."""
    if kind == "category":
        return codes_in(labels, classes, other=len(classes), null=len(classes))
    values = floats(labels)
    if kind == "binary":
        return (values > 0.5).astype(np.int64)
    return np.searchsorted(np.asarray(edges), values, side="right").astype(np.int64)


def _score_codes(scores: Predictions, edges: tuple[float, ...], classes: tuple[str, ...]) -> Ints:
    if isinstance(scores, pa.Array):
        return codes_in(scores, classes, other=len(classes), null=len(classes))
    return np.asarray(np.searchsorted(np.asarray(edges), scores, side="right"), dtype=np.int64)


def _has_prediction(scores: Predictions) -> NDArray[np.bool_]:
    """bool[n]: the score is finite, or the class isn't null."""
    if isinstance(scores, pa.Array):
        return valid_mask(scores)
    return np.asarray(np.isfinite(scores), dtype=np.bool_)


def _filter(scores: Predictions, keep: NDArray[np.bool_]) -> Predictions:
    return scores.filter(pa.array(keep)) if isinstance(scores, pa.Array) else scores[keep]


def _joint(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Ints:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def _loss(kind: str, labels: pa.ChunkedArray, scores: Predictions) -> float | None:
    """Mean log loss or squared error; None for a category, or if the scores are no probabilities."""
    if isinstance(scores, pa.Array):
        return None
    if kind == "number":
        return float(np.mean((floats(labels) - scores) ** 2))
    if scores.min() < 0 or scores.max() > 1:
        return None
    positive = floats(labels) > 0.5
    return float(-np.log(np.clip(np.where(positive, scores, 1 - scores), _TINY, 1)).mean())


def label_reference(
    *,
    objective: str,
    label: str,
    kind: Literal["binary", "number", "category"],
    labels: pa.ChunkedArray,
    scores: Predictions,
    columns: Mapping[str, tuple[Ints, int]] | None = None,
    spans: Ints | None = None,
) -> LabelReference | None:
    """From labels[n] (nulls are left out) and scores[n], or the best classes; None if no row has both.

    columns: for each column the bin of each row, and the number of bins. spans: each row's monitoring window.
    """
    keep = valid_mask(labels) & _has_prediction(scores)
    if not keep.any():
        return None
    labels, scores = labels.filter(pa.array(keep)), _filter(scores, keep)
    classes = _frequent(labels) if kind == "category" else ()
    numbers = floats(labels) if kind != "category" else None
    label_edges = (
        () if kind != "number" or numbers is None else tuple(binning.bin_edges(numbers, bins=LABEL_BINS)[1:-1])
    )
    score_edges = () if kind == "category" else tuple(binning.bin_edges(scores, bins=SCORE_BINS).tolist())
    rows, cells = _label_codes(labels, kind, label_edges, classes), _score_codes(scores, score_edges, classes)
    num_labels = {"binary": 2, "number": len(label_edges) + 1, "category": len(classes) + 1}[kind]
    num_cells = num_labels if kind == "category" else len(score_edges) + 1
    residual = dispersion = 1.0
    score_means: tuple[float, ...] = ()
    label_means: tuple[float, ...] = ()
    if numbers is not None:
        count = np.bincount(cells, minlength=num_cells)
        used = np.flatnonzero(count)
        by_cell = np.bincount(cells, numbers, minlength=num_cells) / np.maximum(count, 1)
        score_means = tuple((np.bincount(cells, scores, minlength=num_cells)[used] / count[used]).tolist())
        label_means = tuple(by_cell[used].tolist())
        dispersion = max(_autocorrelation_factor(numbers), _span_dispersion(rows, num_labels, spans, keep))
        residual = _autocorrelation_factor(numbers - by_cell[cells])
    return LabelReference(
        objective=objective,
        label=label,
        kind=kind,
        label_edges=tuple(map(float, label_edges)),
        classes=classes,
        score_edges=score_edges,
        joint=_nested(_joint(rows, cells, (num_labels, num_cells))),
        score_means=score_means,
        label_means=label_means,
        columns={
            name: _nested(_joint(rows, codes[keep], (num_labels, bins)))
            for name, (codes, bins) in (columns or {}).items()
        },
        base=None if numbers is None else float(numbers.mean()),
        loss=_loss(kind, labels, scores),
        dispersion=dispersion,
        residual_dispersion=residual,
    )


def _frequent(labels: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pc.value_counts(labels).to_pylist()
    order = sorted(counts, key=lambda item: (-item["counts"], item["values"]))
    return tuple(item["values"] for item in order[:LABEL_CLASSES])


def _nested(counts: Ints) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in counts.tolist())


def _autocorrelation_factor(values: Floats) -> float:
    """(1 + ρ) / (1 − ρ) of the lag-1 autocorrelation ρ: how many rows count as one; 1 if ρ isn't significant."""
    centred = values - values.mean()
    power = float(centred @ centred)
    if len(values) < 30 or power == 0:
        return 1.0
    correlation = float(centred[1:] @ centred[:-1]) / power
    if correlation < 3 / np.sqrt(len(values)):
        return 1.0
    return (1 + correlation) / max(1 - correlation, 0.01)


def _span_dispersion(rows: Ints, num_labels: int, spans: Ints | None, keep: NDArray[np.bool_]) -> float:
    """Pearson's statistic of (span × label) over its degrees of freedom: 1 if base rates vary by chance only."""
    if spans is None:
        return 1.0
    _, codes, sizes = np.unique(spans[keep], return_inverse=True, return_counts=True)
    if len(sizes) < ENOUGH_SPANS:
        return 1.0
    table = _joint(codes, rows, (len(sizes), num_labels)).astype(np.float64)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    used = expected > 0
    statistic = float((((table - expected) ** 2)[used] / expected[used]).sum())
    freedom = (len(sizes) - 1) * (int((table.sum(axis=0) > 0).sum()) - 1)
    return max(1.0, statistic / freedom) if freedom > 0 else 1.0


def _conditional_p(first: Ints, second: Ints, dispersion: float) -> float:
    """p that in each row the two tables come from one distribution."""
    statistic, freedom = statistics.homogeneity(first, second)
    return float(statistics.p_value(float(statistic.sum()) / dispersion, float(freedom.sum())))


def compare(
    reference: LabelReference, labels: pa.ChunkedArray, scores: Predictions, *, minimum_rows: int
) -> Comparison | None:
    """A window's labels[n] (null: unknown) and scores against the reference; None if too few rows have both."""
    keep = valid_mask(labels) & _has_prediction(scores)
    rows = int(keep.sum())
    if rows < minimum_rows or reference.rows < minimum_rows:
        return None
    labels, scores = labels.filter(pa.array(keep)), _filter(scores, keep)
    before = np.asarray(reference.joint, dtype=np.int64)
    codes = _label_codes(labels, reference.kind, reference.label_edges, reference.classes)
    cells = _score_codes(scores, reference.score_edges, reference.classes)
    now = _joint(codes, cells, (before.shape[0], before.shape[1]))
    base_statistic, freedom = statistics.homogeneity(before.sum(axis=1), now.sum(axis=1))
    numbers = None if reference.kind == "category" else floats(labels)
    shift = 0.0
    if numbers is not None and reference.label_means:
        expected = np.interp(scores, reference.score_means, reference.label_means)
        count = np.bincount(cells, numbers - expected, minlength=before.shape[1])
        shift = float(np.abs(count).sum() / rows)
    return Comparison(
        objective=reference.objective,
        rows=rows,
        base=None if numbers is None else float(numbers.mean()),
        reference_base=reference.base,
        base_distance=float(statistics.jensen_shannon(before.sum(axis=1), now.sum(axis=1))),
        base_p=float(statistics.p_value(float(base_statistic) / reference.dispersion, freedom)),
        conditional_p=_conditional_p(before, now, reference.dispersion),
        calibration_p=_conditional_p(before.T, now.T, reference.residual_dispersion),
        calibration_shift=shift,
        loss=_loss(reference.kind, labels, scores),
        reference_loss=reference.loss,
        label_counts=now.sum(axis=1),
    )


def calibrate(reference: LabelReference, scores: Floats) -> Floats:
    """P(label = 1 | score) of a binary objective: the score, corrected by the reference's labels.

    The correction is linear between the reference's score bins, and constant beyond the outermost ones.
    """
    means = np.asarray(reference.score_means)
    correction = np.interp(scores, means, np.asarray(reference.label_means) - means)
    values: Floats = np.clip(scores + correction, 0.0, 1.0)
    return values
