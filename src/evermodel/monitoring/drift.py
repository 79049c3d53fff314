"""How far a window's columns are from the champion's reference: binned counts, one pass over a column.

A `Reference` holds what is needed of the champion's training rows (see `columns`) and no row of them. Missing numbers
are no drift: their share is data quality's.

A constant column that starts to vary has moved, by the most that its method can say. What can't be scored (too few
rows, no values) has score None and drifted None: unknown, which is not "no".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.monitoring import statistics
from evermodel.monitoring.binning import Ints, finite, numbers
from evermodel.monitoring.column_counts import ColumnReference, bin_codes, column_counts, column_reference, fits, varies
from evermodel.monitoring.label_shift import LabelReference, label_reference
from evermodel.monitoring.statistics import P_VALUES, Floats
from evermodel.monitoring.validity import Declared, declared, duplicate_share
from evermodel.records import Artifact, DriftScore, Window
from evermodel.use_case import CalendarFeature, ColumnFeature, CrossFeature, UseCase

LABELLED = 200_000  # labelled rows that are looked at; more are thinned
SIGNIFICANCE = 0.001  # a distance over its threshold that equal distributions show this often is no drift


class Reference(Artifact):
    """What monitoring compares with: the champion's training rows, its scores of them, its performance at its gate."""

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
    """The feature columns, and whether a number is a name (hashed or embedded: a category). None: as its type says.

    Parts of the calendar aren't watched: a week in May has moved away from a year, and nothing has happened. Nor is a
    column that serving always says the same of, such as a position: it varies in training, and never in an answer.
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
    scores: Mapping[str, Floats],
    *,
    performance: float | None,
    window: Window,
    judged: tuple[pa.Table, Mapping[str, Floats]] | None = None,
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> Reference:
    """From the champion's training rows and its scores of them by objective: float64[n], or [n, C] of a category.

    performance: the champion's metric at its gate. judged: rows that it was not trained on (its gate's) with its
    scores of them; what labels mean at a score is taken from them where they are given, as a model knows the rows
    that it was trained on too well. classes: a category's, in the order of its scores' columns;
    without them nothing is known of which class is put first.
    """
    settings = use_case.monitoring.drift
    fine = settings.method in ("ks", "wasserstein")
    allowed = declared(use_case)
    columns = tuple(
        column_reference(
            name, rows[name], bins=settings.bins, fine=fine, kind=kind, allowed=allowed.get(name, Declared())
        )
        for name, kind in watched_columns(use_case).items()
        if name in rows.column_names
    )
    labelled, known_scores = judged if judged is not None and _labelled(use_case, judged[0]) else (rows, scores)
    return Reference(
        use_case=use_case.name,
        window=window,
        rows=rows.num_rows,
        columns=columns,
        scores=tuple(
            column_reference(name, pa.chunked_array([values]), bins=settings.bins, fine=fine)
            for name, values in score_columns(use_case, scores, classes or {}).items()
        ),
        labels=_label_references(use_case, labelled, known_scores, columns, classes or {}),
        performance=performance,
        duplicates=duplicate_share(use_case, rows),
    )


def _labelled(use_case: UseCase, rows: pa.Table) -> bool:
    names = [f"label:{label.name}" for label in use_case.labels if f"label:{label.name}" in rows.column_names]
    return any(rows.num_rows - rows[name].null_count >= use_case.monitoring.minimum_rows for name in names)


def score_columns(
    use_case: UseCase, scores: Mapping[str, Floats], classes: Mapping[str, tuple[str, ...]]
) -> dict[str, pa.Array]:
    """What the request log holds of an answer: `score:<objective>`, and the combined `score` of several.

    Of a category the score of the class put first, and that class as `class:<objective>` where the classes are given.
    """
    found: dict[str, pa.Array] = {}
    combined: Floats | None = None
    for objective in use_case.objectives:
        values = scores.get(objective.name)
        if values is None:
            continue
        if values.ndim == 2:
            found[f"score:{objective.name}"] = pa.array(values.max(axis=1, initial=0.0), pa.float64())
            if names := classes.get(objective.name):
                found[f"class:{objective.name}"] = _first_class(values, names)
            continue
        found[f"score:{objective.name}"] = pa.array(values, pa.float64())
        combined = objective.weight * values + (0.0 if combined is None else combined)
    if combined is not None and len(use_case.objectives) > 1:
        found["score"] = pa.array(combined, pa.float64())
    return found


def _first_class(values: Floats, names: tuple[str, ...]) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(values.argmax(axis=1)))


def _label_references(
    use_case: UseCase,
    rows: pa.Table,
    scores: Mapping[str, Floats],
    columns: tuple[ColumnReference, ...],
    classes: Mapping[str, tuple[str, ...]],
) -> tuple[LabelReference, ...]:
    step = max(1, rows.num_rows // LABELLED)
    if step > 1:
        rows = rows.take(pa.array(np.arange(0, rows.num_rows, step)))
    spans = np.asarray(pc.cast(rows["event_time"], pa.int64()).to_numpy()) // use_case.monitoring.window
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
        values = np.asarray(scores[objective.name], dtype=np.float64)[::step]
        if values.ndim == 2 and objective.name not in classes:
            continue
        found.append(
            label_reference(
                objective=objective.name,
                label=objective.label,
                kind=use_case.label(objective.label).type,
                labels=rows[name],
                scores=values if values.ndim == 1 else _first_class(values, classes[objective.name]),
                columns=codes,
                spans=spans,
            )
        )
    return tuple(reference for reference in found if reference is not None)


# a window -----------------------------------------------------------------------------------------------------------


def method_of(reference: ColumnReference, method: str) -> str:
    """What is used: categories have no order, so `chi2` stands in for `ks`, and `jensen_shannon` for `wasserstein`."""
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
    """Each column of a window (a table that holds them by name) against its reference.

    A distance drifts from its threshold on, where besides equal distributions would show it in fewer than one of
    1,000 windows of that size; a p (`ks`, `chi2`) below its threshold. Score and drifted are None where the column is
    absent or of another type, or where either side knows fewer than `minimum_rows` values.
    """
    present = [item for item in references if item.column in table.column_names and fits(item, table[item.column])]
    counts = {item.column: column_counts(item, table[item.column]) for item in present}
    enough = [item for item in present if counts[item.column].sum() >= minimum_rows and item.rows >= minimum_rows]
    moving = {item.column for item in enough if varies(item, counts[item.column])}
    scored = [item for item in enough if item.column in moving or item.valid >= minimum_rows]
    found: dict[str, DriftScore] = {}
    for used in {method_of(item, method) for item in scored}:
        group = [item for item in scored if method_of(item, method) == used]
        found |= _scored(group, counts, moving, table, used, threshold)
    return [
        found.get(
            item.column,
            DriftScore(
                column=item.column, method=method_of(item, method), score=None, threshold=threshold, drifted=None
            ),
        )
        for item in references
    ]


def _scored(
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
        values = [finite(numbers(table[item.column])) for item in group]
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
    """Rows of different lengths → int64[c, longest], zeros behind."""
    result = np.zeros((len(counts), max(map(len, counts))), dtype=np.int64)
    for row, values in zip(result, counts, strict=True):
        row[: len(values)] = values
    return result


def _edges(group: Sequence[ColumnReference], width: int) -> Floats:
    """float64[c, width], the last edge repeated; 0 where the reference held no value."""
    result = np.zeros((len(group), max(width, 1)))
    for row, item in zip(result, group, strict=True):
        if item.edges:
            row[: len(item.edges)] = item.edges
            row[len(item.edges) :] = item.edges[-1]
    return result
