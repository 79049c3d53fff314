"""Is the data broken? Findings that no honest change of the world explains, each with its number.

A finding is keyed `<fault>:<column>` (`duplicate` stands alone) and its value is the figure that gave it away:

| fault      | what                                                                       | value                        |
|------------|----------------------------------------------------------------------------|------------------------------|
| schema     | a column is absent, or text where numbers were                             | 1                            |
| null       | more missing than the reference had, by the use case's `null_share`        | share missing                |
| range      | beyond the declared bounds or values, or ten times beyond all of reference | share of rows                |
| unit       | the reference's values times a factor (100, 1/60, …), shape unchanged      | the factor                   |
| constant   | a column that varied holds one value all window                            | rows                         |
| stale      | it repeats one value far longer than the reference ever did                | share of rows in the run     |
| duplicate  | rows that repeat another, beyond the reference's share                     | share of rows                |
| late_label | labels that should have come by now and haven't                            | share of matured rows        |
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.monitoring import cohorts, statistics
from evermodel.monitoring.binning import bin_counts, finite, is_text, longest_run, numbers, texts
from evermodel.monitoring.column_counts import ColumnReference, fits
from evermodel.monitoring.drift import Reference
from evermodel.monitoring.statistics import Floats
from evermodel.monitoring.validity import Declared, declared, duplicate_share, foreign_share, outside_share
from evermodel.use_case import UseCase

TOLERATED = 0.01  # share of rows out of range, or repeated, beyond the reference's own
FAR = 10.0  # times the reference's largest magnitude
FACTORS = (10.0, 100.0, 1000.0, 1e6, 60.0, 3600.0, 24.0, 86_400.0)  # and their inverses
SAME_SHAPE = 0.15  # Jensen–Shannon distance after division by the factor, noise of a small window included
RUN = 30  # rows; a shorter run isn't stale
DEVIATIONS = 3.0  # a null share has to be that many standard errors above the reference's


def findings(use_case: UseCase, served: pa.Table, reference: Reference, *, now: datetime) -> dict[str, float]:
    """All faults of a window's served rows; empty where there are none, or too few rows to say."""
    settings = use_case.monitoring
    if served.num_rows < settings.minimum_rows:
        return {}
    allowed = declared(use_case)
    found: dict[str, float] = {}
    for column in reference.columns:
        found |= _of_column(
            column, served, allowed.get(column.column, Declared()), settings.null_share, settings.minimum_rows
        )
    repeated = duplicate_share(use_case, served)
    if repeated > reference.duplicates + TOLERATED:
        found["duplicate"] = repeated
    for label in use_case.labels:
        late = cohorts.late_share(served, label.name, now=now, delay=label.delay)
        ripe = int(cohorts.matured(served, now=now, delay=label.delay).sum())
        if late is not None and ripe >= settings.minimum_rows and late > settings.null_share:
            found[f"late_label:{label.name}"] = late
    return found


def shares(served: pa.Table, reference: Reference) -> dict[str, float]:
    """Figures that are no fault by themselves: `fallback_share`, and `null_share:<column>` of each that has nulls."""
    rows = max(served.num_rows, 1)
    found: dict[str, float] = {}
    if "fallback" in served.column_names:
        found["fallback_share"] = (pc.sum(served["fallback"]).as_py() or 0) / rows
    names = [column.column for column in reference.columns if column.column in served.column_names]
    return found | {f"null_share:{name}": served[name].null_count / rows for name in names if served[name].null_count}


def _of_column(
    column: ColumnReference, served: pa.Table, allowed: Declared, null_share: float, minimum_rows: int
) -> dict[str, float]:
    name = column.column
    if name not in served.column_names:
        return {f"schema:{name}": 1.0}
    array = served[name]
    if not fits(column, array):
        return {f"schema:{name}": 1.0}
    if column.kind == "category":
        text = texts(array)
        missing = text.null_count / len(text)
        outside = foreign_share(text, allowed) if is_text(array) else 0.0
        codes = np.asarray(pc.fill_null(text.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False))
        found = _frozen(column, codes[codes >= 0].astype(np.float64), minimum_rows)
    else:
        every = numbers(array)
        values = finite(every)
        missing = 1 - len(values) / len(every)
        outside = outside_share(values, allowed)
        found = _frozen(column, values, minimum_rows)
        if len(values) >= minimum_rows and not column.constant:
            found |= _magnitude(column, values)
    error = np.sqrt(column.null_share * (1 - column.null_share) / served.num_rows)
    if missing > column.null_share + max(null_share, DEVIATIONS * error):
        found[f"null:{name}"] = missing
    if outside > column.outside + TOLERATED:
        found[f"range:{name}"] = outside
    return found


def _frozen(column: ColumnReference, values: Floats, minimum_rows: int) -> dict[str, float]:
    """Constant or stale, measured against the longest run that the reference has seen: some columns change rarely."""
    if column.constant or len(values) < minimum_rows:
        return {}
    run = longest_run(values)
    if run == len(values) and run > column.longest_run:
        return {f"constant:{column.column}": float(run)}
    if run >= max(RUN, 5 * column.longest_run) and run >= 0.1 * len(values):
        return {f"stale:{column.column}": run / len(values)}
    return {}


def _magnitude(column: ColumnReference, values: Floats) -> dict[str, float]:
    """A factor between the window's and the reference's values, or values far beyond all that the reference had."""
    factor = _factor(column, values)
    if factor is not None:
        return {f"unit:{column.column}": factor}
    largest = max(abs(column.minimum or 0.0), abs(column.maximum or 0.0))
    far = float(np.count_nonzero(np.abs(values) > FAR * largest) / len(values)) if largest > 0 else 0.0
    return {f"range:{column.column}": far} if far > TOLERATED else {}


def _factor(column: ColumnReference, values: Floats) -> float | None:
    """The factor of a changed unit: all of the window is the reference's distribution times it."""
    before, now = column.magnitude or 0.0, float(np.median(np.abs(values)))
    if before <= 0 or now <= 0 or 1 / 5 < now / before < 5:
        return None
    edges, counts = np.asarray(column.edges), np.asarray(column.counts)
    best: tuple[float, float] | None = None
    for factor in (*FACTORS, *(1 / factor for factor in FACTORS)):
        if not 1 / 3 < now / before / factor < 3:
            continue
        distance = float(statistics.jensen_shannon(counts, bin_counts(values / factor, edges)))
        if best is None or distance < best[0]:
            best = (distance, factor)
    return best[1] if best is not None and best[0] < SAME_SHAPE + _noise(column, len(values)) else None


def _noise(column: ColumnReference, rows: int) -> float:
    """What the distance of equal distributions is in the mean: √((k − 1) / 8 (1/n + 1/m))."""
    return float(np.sqrt((len(column.counts) - 1) / 8 * (1 / rows + 1 / max(column.valid, 1))))
