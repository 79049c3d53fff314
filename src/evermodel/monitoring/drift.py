"""Drift: how far a window's columns are from the champion's reference, on binned counts, in one pass over a column.

A `Reference` holds counts of the champion's training rows (see `column_counts`), and no row. Missing numbers are no
drift; `quality` checks their share.

A constant column that starts to vary has drifted, with the method's extreme score. A column that can't be scored (too
few rows, no values) has score None and drifted None: unknown, which is not "no".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from evermodel.columns import floats, ints
from evermodel.monitoring import statistics
from evermodel.monitoring.binning import Ints, finite
from evermodel.monitoring.column_counts import ColumnReference, bin_codes, column_counts, column_reference, fits, varies
from evermodel.monitoring.label_shift import LabelReference, label_reference
from evermodel.monitoring.statistics import P_VALUES, Floats
from evermodel.monitoring.validity import DeclaredValues, declared_values, duplicate_share
from evermodel.records import Artifact, DriftScore, Window
from evermodel.scores import Scores
from evermodel.use_case import CalendarFeature, ColumnFeature, CrossFeature, UseCase

MOST_LABELLED = 200_000  # a label reference uses at most about so many rows, evenly in order of time
SIGNIFICANCE = 0.001  # a distance over its threshold is drift only if its p is below this


class Reference(Artifact):
    """The reference of monitoring: the champion's training rows, its scores of them, its metric at its gate."""

    use_case: str
    window: Window
    rows: int
    columns: tuple[ColumnReference, ...]
    scores: tuple[ColumnReference, ...]  # `score` and `score:<objective>`
    labels: tuple[LabelReference, ...] = ()
    performance: float | None = None
    duplicates: float = 0.0

    def column(self, name: str) -> ColumnReference:
        return next(column for column in (*self.columns, *self.scores) if column.column == name)

    def label(self, objective: str) -> LabelReference | None:
        return next((label for label in self.labels if label.objective == objective), None)


# the reference ------------------------------------------------------------------------------------------------------


def watched_columns(use_case: UseCase) -> dict[str, Literal["number", "category"] | None]:
    """The feature columns that are compared, with their kind. A hashed or embedded number is a category. None: by type.

    Calendar features are left out: a week in May always differs from a whole year. So are columns that serving fixes
    (`serve_as`), such as a position: they vary in training, and never in an answer.
    """
    unwatched = {
        feature.name
        for feature in use_case.features
        if isinstance(feature, CalendarFeature) or (isinstance(feature, ColumnFeature) and feature.serve_as is not None)
    }
    names: set[str] = {feature.name for feature in use_case.features if isinstance(feature, CrossFeature)}
    names |= {feature.name for feature in use_case.features if feature.encode in ("hash", "embed")}
    return {name: "category" if name in names else None for name in use_case.feature_columns() if name not in unwatched}


def fit_reference(
    use_case: UseCase,
    rows: pa.Table,
    scores: Mapping[str, Scores],
    *,
    performance: float | None,
    window: Window,
    gate: tuple[pa.Table, Mapping[str, Scores]] | None = None,
) -> Reference:
    """The reference from the champion's training rows and its scores of them, by objective.

    performance: the champion's metric at its gate. gate: rows that it wasn't trained on, with its scores of them. The
    labels at each score are taken from these rows if they have enough labels, because a model fits its training rows
    too well.
    """
    settings = use_case.monitoring.drift
    fine = settings.method in ("ks", "wasserstein")
    allowed = declared_values(use_case)
    columns = tuple(
        column_reference(
            name, rows[name], bins=settings.bins, fine=fine, kind=kind, allowed=allowed.get(name, DeclaredValues())
        )
        for name, kind in watched_columns(use_case).items()
        if name in rows.column_names
    )
    labelled, label_scores = gate if gate is not None and _has_labels(use_case, gate[0]) else (rows, scores)
    return Reference(
        use_case=use_case.name,
        window=window,
        rows=rows.num_rows,
        columns=columns,
        scores=tuple(
            column_reference(name, pa.chunked_array([values]), bins=settings.bins, fine=fine)
            for name, values in score_columns(use_case, scores).items()
        ),
        labels=_label_references(use_case, labelled, label_scores, columns),
        performance=performance,
        duplicates=duplicate_share(use_case, rows),
    )


def _has_labels(use_case: UseCase, rows: pa.Table) -> bool:
    names = [f"label:{label.name}" for label in use_case.labels if f"label:{label.name}" in rows.column_names]
    return any(rows.num_rows - rows[name].null_count >= use_case.monitoring.minimum_rows for name in names)


def score_columns(use_case: UseCase, scores: Mapping[str, Scores]) -> dict[str, pa.Array]:
    """The columns of the request log for these scores: `score:<objective>`, and the combined `score` of several.

    For a category: the score of the best class, and that class as `class:<objective>`.
    """
    found: dict[str, pa.Array] = {}
    combined: Floats | None = None
    for objective in use_case.objectives:
        own = scores.get(objective.name)
        if own is None:
            continue
        found[f"score:{objective.name}"] = pa.array(own.best, pa.float64())
        if own.is_category:
            found[f"class:{objective.name}"] = _best_class(own)
        else:
            combined = objective.weight * own.values + (0.0 if combined is None else combined)
    if combined is not None and len(use_case.objectives) > 1:
        found["score"] = pa.array(combined, pa.float64())
    return found


def _best_class(scores: Scores) -> pa.Array:
    return pa.array(scores.classes, pa.string()).take(pa.array(scores.values.argmax(axis=1)))


def _label_references(
    use_case: UseCase,
    rows: pa.Table,
    scores: Mapping[str, Scores],
    columns: tuple[ColumnReference, ...],
) -> tuple[LabelReference, ...]:
    step = max(1, rows.num_rows // MOST_LABELLED)
    sampled = np.arange(0, rows.num_rows, step)
    if step > 1:
        rows = rows.take(pa.array(sampled))
        scores = {name: values.take(sampled) for name, values in scores.items()}
    spans = ints(rows["event_time"]) // use_case.monitoring.window_length
    codes = {
        column.column: (bin_codes(column, rows[column.column]), len(column.counts) + 1)
        for column in columns
        if column.column in rows.column_names
    }
    found: list[LabelReference | None] = []
    for objective in use_case.objectives:
        name = f"label:{objective.label}"
        if objective.name not in scores or name not in rows.column_names:
            continue
        own = scores[objective.name]
        found.append(
            label_reference(
                objective=objective.name,
                label=objective.label,
                kind=use_case.label(objective.label).type,
                labels=rows[name],
                scores=_best_class(own) if own.is_category else own.values,
                columns=codes,
                spans=spans,
            )
        )
    return tuple(reference for reference in found if reference is not None)


# a window -----------------------------------------------------------------------------------------------------------


def method_of(reference: ColumnReference, method: str) -> str:
    """The method for a column. Categories have no order: `chi2` replaces `ks`, and `jensen_shannon` `wasserstein`."""
    if reference.kind == "category":
        return {"ks": "chi2", "wasserstein": "jensen_shannon"}.get(method, method)
    return method


def drift_scores(
    references: Sequence[ColumnReference],
    table: pa.Table,
    *,
    method: str,
    threshold: float,
    minimum_rows: int,
) -> list[DriftScore]:
    """Each column of a window's table against its reference.

    A column has drifted if its distance reaches the threshold, and equal distributions would show it in fewer than one
    of 1,000 windows of that size; with `ks` and `chi2`, if p is below the threshold. Score and drifted are None if the
    column is absent or of another type, or if either side has fewer than `minimum_rows` values.
    """
    present = [item for item in references if item.column in table.column_names and fits(item, table[item.column])]
    counts = {item.column: column_counts(item, table[item.column]) for item in present}
    enough = [item for item in present if counts[item.column].sum() >= minimum_rows and item.rows >= minimum_rows]
    moving = {item.column for item in enough if varies(item, counts[item.column])}
    scored = [item for item in enough if item.column in moving or item.valid >= minimum_rows]
    found: dict[str, DriftScore] = {}
    for used in {method_of(item, method) for item in scored}:
        group = [item for item in scored if method_of(item, method) == used]
        found |= _score_group(group, counts, moving, table, used, threshold)
    return [
        found.get(
            item.column,
            DriftScore(
                column=item.column, method=method_of(item, method), score=None, threshold=threshold, drifted=None
            ),
        )
        for item in references
    ]


def _score_group(
    group: Sequence[ColumnReference],
    counts: Mapping[str, Ints],
    moving: set[str],
    table: pa.Table,
    method: str,
    threshold: float,
) -> dict[str, DriftScore]:
    before = _padded([np.asarray(item.counts) for item in group])
    now = _padded([counts[item.column] for item in group])
    if method == "wasserstein":
        values = [finite(floats(table[item.column])) for item in group]
        edges = _edges(group, before.shape[1] - 1)
        scores = statistics.wasserstein(
            before,
            now,
            edges=edges,
            under=np.array(
                [np.maximum(first - part, 0).mean() for first, part in zip(edges[:, 0], values, strict=True)]
            ),
            over=np.array([np.maximum(part - last, 0).mean() for last, part in zip(edges[:, -1], values, strict=True)]),
            scale=np.array([item.deviation or 0.0 for item in group]),
        )
    else:
        scores = statistics.ON_COUNTS[method](before, now)
    chance = statistics.p_value(*statistics.homogeneity(before, now))
    found: dict[str, DriftScore] = {}
    for item, score, p in zip(group, scores.tolist(), chance.tolist(), strict=True):
        drifted: bool | None
        if item.column in moving:
            score, drifted = (0.0 if method in P_VALUES else 1.0), True
        elif not np.isfinite(score):
            score, drifted = None, None
        elif method in P_VALUES:
            drifted = score < threshold
        else:
            drifted = score >= threshold and p < SIGNIFICANCE
        found[item.column] = DriftScore(
            column=item.column, method=method, score=score, threshold=threshold, drifted=drifted
        )
    return found


def _padded(counts: Sequence[Ints]) -> Ints:
    """Rows of different lengths → int64[c, longest], padded with zeros."""
    result = np.zeros((len(counts), max(map(len, counts))), dtype=np.int64)
    for row, values in zip(result, counts, strict=True):
        row[: len(values)] = values
    return result


def _edges(group: Sequence[ColumnReference], width: int) -> Floats:
    """float64[c, width], padded with the last edge; 0 if the reference has no value."""
    result = np.zeros((len(group), max(width, 1)))
    for row, item in zip(result, group, strict=True):
        if item.edges:
            row[: len(item.edges)] = item.edges
            row[len(item.edges) :] = item.edges[-1]
    return result
