"""Labels and scores together: has the base rate moved, or what a score means?

A `LabelReference` holds the joint counts of (label bin, score bin) over rows that the champion answered. A window's
joint counts are compared in three ways, each a test of homogeneity on counts, so that no row of the reference is kept:

- base: the label's own shares;
- conditional: P(score | label) in each label bin. It stays where only the base rate moved (label shift);
- calibration: P(label | score) in each score bin. It stays where only the inputs moved (covariate shift), and moves
  with the concept. (Lipton et al. 2018 and Moreno-Torres et al. 2012 have the terms.)

Labels and residuals that follow each other in time carry less news than their number says: statistics are divided by
a dispersion that the reference measured (quasi-likelihood; McCullagh & Nelder 1989, 4.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.monitoring import binning, statistics
from evermodel.monitoring.binning import Ints
from evermodel.monitoring.statistics import Floats
from evermodel.records import Artifact

SCORE_BINS = 10
LABEL_BINS = 4  # of a number
_TINY = 1e-7
LABEL_CLASSES = 50  # of a category: the most frequent; all others count as one
ENOUGH_SPANS = 8  # of the monitoring window's length, for the dispersion to be read off them

Answers: TypeAlias = Any  # Floats, a score a row; or pa.Array of text, of a category the class that was put first


class LabelReference(Artifact):
    """One objective's label against its score, on rows that the champion answered."""

    objective: str
    label: str
    kind: Literal["binary", "number", "category"]
    label_edges: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    score_edges: tuple[float, ...] = ()  # of a category: none, a bin is the class that was put first
    joint: tuple[tuple[int, ...], ...]  # [label bin][score bin]
    score_means: tuple[float, ...] = ()  # mean score and mean label of each score bin that holds rows
    label_means: tuple[float, ...] = ()
    columns: dict[str, tuple[tuple[int, ...], ...]] = {}  # noqa: RUF012 — [label bin][bin of the column]
    base: float | None = None  # mean label; None of a category
    loss: float | None = None  # log loss, squared error
    dispersion: float = 1.0
    residual_dispersion: float = 1.0

    @property
    def rows(self) -> int:
        return sum(map(sum, self.joint))


@dataclass(frozen=True)
class Comparison:
    """A window's labelled rows against the reference; p where 1 is no evidence of a move."""

    objective: str
    rows: int
    base: float | None
    reference_base: float | None
    base_distance: float  # Jensen–Shannon, of the label's shares
    base_p: float
    conditional_p: float
    calibration_p: float
    calibration_shift: float  # mean |label − what the reference has at this score|, signed within a bin
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


def known(labels: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """bool[n]: the label is there."""
    return np.asarray(
        pc.is_valid(labels).to_numpy(zero_copy_only=False)
        if isinstance(labels, pa.Array)
        else pc.is_valid(labels).to_numpy()
    )


def _label_codes(labels: pa.ChunkedArray, kind: str, edges: tuple[float, ...], classes: tuple[str, ...]) -> Ints:
    """Bin of each known label → int64[n]."""
    if kind == "category":
        codes = pc.fill_null(pc.index_in(labels, value_set=pa.array(classes, pa.string())), len(classes))
        return np.asarray(codes.to_numpy(), dtype=np.int64)
    values = binning.numbers(labels)
    if kind == "binary":
        return (values > 0.5).astype(np.int64)
    return np.searchsorted(np.asarray(edges), values, side="right").astype(np.int64)


def _score_codes(scores: Answers, edges: tuple[float, ...], classes: tuple[str, ...]) -> Ints:
    if isinstance(scores, pa.Array):
        codes = pc.fill_null(pc.index_in(scores, value_set=pa.array(classes, pa.string())), len(classes))
        return np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)
    return np.asarray(np.searchsorted(np.asarray(edges), scores, side="right"), dtype=np.int64)


def _answered(scores: Answers) -> NDArray[np.bool_]:
    """bool[n]: there is a score, or a class."""
    if isinstance(scores, pa.Array):
        return np.asarray(pc.is_valid(scores).to_numpy(zero_copy_only=False), dtype=np.bool_)
    return np.asarray(np.isfinite(scores), dtype=np.bool_)


def _kept(scores: Answers, keep: NDArray[np.bool_]) -> Answers:
    return scores.filter(pa.array(keep)) if isinstance(scores, pa.Array) else scores[keep]


def _joint(rows: Ints, columns: Ints, shape: tuple[int, int]) -> Ints:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def _loss(kind: str, labels: pa.ChunkedArray, scores: Answers) -> float | None:
    """Mean log loss or squared error; None of a category, or where the scores are no probabilities."""
    if isinstance(scores, pa.Array):
        return None
    if kind == "number":
        return float(np.mean((binning.numbers(labels) - scores) ** 2))
    if scores.min() < 0 or scores.max() > 1:
        return None
    positive = binning.numbers(labels) > 0.5
    return float(-np.log(np.clip(np.where(positive, scores, 1 - scores), _TINY, 1)).mean())


def label_reference(
    *,
    objective: str,
    label: str,
    kind: Literal["binary", "number", "category"],
    labels: pa.ChunkedArray,
    scores: Answers,
    columns: Mapping[str, tuple[Ints, int]] | None = None,
    spans: Ints | None = None,
) -> LabelReference | None:
    """From labels[n] (null: left out) and scores[n], or the classes put first; None where no row has both.

    columns: for each column its rows' bins and their number. spans: which monitoring window each row falls into.
    """
    keep = known(labels) & _answered(scores)
    if not keep.any():
        return None
    labels, scores = labels.filter(pa.array(keep)), _kept(scores, keep)
    classes = _frequent(labels) if kind == "category" else ()
    numbers = binning.numbers(labels) if kind != "category" else None
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
        dispersion = max(_inertia(numbers), _between(rows, num_labels, spans, keep))
        residual = _inertia(numbers - by_cell[cells])
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


def _inertia(values: Floats) -> float:
    """(1 + ρ) / (1 − ρ) of the lag-1 autocorrelation ρ: how many rows carry the news of one; 1 where ρ may be 0."""
    centred = values - values.mean()
    power = float(centred @ centred)
    if len(values) < 30 or power == 0:
        return 1.0
    correlation = float(centred[1:] @ centred[:-1]) / power
    if correlation < 3 / np.sqrt(len(values)):
        return 1.0
    return (1 + correlation) / max(1 - correlation, 0.01)


def _between(rows: Ints, num_labels: int, spans: Ints | None, keep: NDArray[np.bool_]) -> float:
    """Pearson's statistic of (span × label) over its degrees of freedom: how much more than chance base rates vary."""
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


def _conditional(first: Ints, second: Ints, dispersion: float) -> float:
    """p that each row of the two tables comes from one distribution, row by row."""
    statistic, freedom = statistics.homogeneity(first, second)
    return float(statistics.p_value(float(statistic.sum()) / dispersion, float(freedom.sum())))


def compare(
    reference: LabelReference, labels: pa.ChunkedArray, scores: Answers, *, minimum_rows: int
) -> Comparison | None:
    """A window's labels[n] (null: unknown) and scores against the reference; None where too few rows have both."""
    keep = known(labels) & _answered(scores)
    rows = int(keep.sum())
    if rows < minimum_rows or reference.rows < minimum_rows:
        return None
    labels, scores = labels.filter(pa.array(keep)), _kept(scores, keep)
    before = np.asarray(reference.joint, dtype=np.int64)
    codes = _label_codes(labels, reference.kind, reference.label_edges, reference.classes)
    cells = _score_codes(scores, reference.score_edges, reference.classes)
    now = _joint(codes, cells, (before.shape[0], before.shape[1]))
    base_statistic, freedom = statistics.homogeneity(before.sum(axis=1), now.sum(axis=1))
    numbers = None if reference.kind == "category" else binning.numbers(labels)
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
        conditional_p=_conditional(before, now, reference.dispersion),
        calibration_p=_conditional(before.T, now.T, reference.residual_dispersion),
        calibration_shift=shift,
        loss=_loss(reference.kind, labels, scores),
        reference_loss=reference.loss,
        label_counts=now.sum(axis=1),
    )


def calibrated(reference: LabelReference, scores: Floats) -> Floats:
    """P(label = 1 | score) of a binary objective, as the reference's labels turned out: the score, corrected.

    The correction is straight between the reference's score bins, and their outermost one beyond them.
    """
    means = np.asarray(reference.score_means)
    correction = np.interp(scores, means, np.asarray(reference.label_means) - means)
    values: Floats = np.clip(scores + correction, 0.0, 1.0)
    return values
