"""Data quality: faults that no real change of the inputs explains, each with its value.

The key of a fault is `<fault>:<column>` (`duplicate` has no column):

| fault      | when                                                                       | value                        |
|------------|----------------------------------------------------------------------------|------------------------------|
| schema     | a column is absent, or text where numbers were                             | 1                            |
| null       | more missing than in the reference, by the use case's `null_share`         | share missing                |
| range      | outside the declared bounds or values, or above ten times the reference    | share of rows                |
| unit       | the reference's values times a factor (100, 1/60, …), shape unchanged      | the factor                   |
| constant   | a column that varied has one value in the whole window                     | rows                         |
| stale      | it repeats one value far longer than in the reference                      | share of rows in the run     |
| duplicate  | rows that repeat another, beyond the reference's share                     | share of rows                |
| late_label | labels of matured rows are missing                                         | share of matured rows        |
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.columns import codes, floats, is_text, texts
from evermodel.monitoring import cohorts, statistics
from evermodel.monitoring.binning import bin_counts, finite, longest_run
from evermodel.monitoring.column_counts import ColumnReference, fits
from evermodel.monitoring.drift import Reference
from evermodel.monitoring.statistics import Floats
from evermodel.monitoring.validity import DeclaredValues, declared_values, duplicate_share, foreign_share, outside_share
from evermodel.use_case import UseCase

TOLERATED = 0.01  # share of rows out of range, or repeated, above the reference's own
FAR = 10.0  # times the reference's largest magnitude
FACTORS = (10.0, 100.0, 1000.0, 1e6, 60.0, 3600.0, 24.0, 86_400.0)  # and their inverses
SAME_SHAPE = 0.15  # Jensen–Shannon distance after division by the factor; the noise of a small window is added
RUN = 30  # rows; a shorter run isn't stale
DEVIATIONS = 3.0  # a null share must be so many standard errors above the reference's


def find_faults(use_case: UseCase, served: pa.Table, reference: Reference, *, now: datetime) -> dict[str, float]:
    """All faults of a window's served rows; empty if there are none, or too few rows."""
    settings = use_case.monitoring
    if served.num_rows < settings.minimum_rows:
        return {}
    allowed = declared_values(use_case)
    found: dict[str, float] = {}
    for column in reference.columns:
        found |= _column_faults(
            column, served, allowed.get(column.column, DeclaredValues()), settings.null_share, settings.minimum_rows
        )
    repeated = duplicate_share(use_case, served)
    if repeated > reference.duplicates + TOLERATED:
        found["duplicate"] = repeated
    for label in use_case.labels:
        late = cohorts.late_share(served, label.name, now=now, delay=label.delay)
        matured = int(cohorts.matured(served, now=now, delay=label.delay).sum())
        if late is not None and matured >= settings.minimum_rows and late > settings.null_share:
            found[f"late_label:{label.name}"] = late
    return found


def missing_shares(served: pa.Table, reference: Reference) -> dict[str, float]:
    """Values that are no fault by themselves: `fallback_share`, and `null_share:<column>` of each column with nulls."""
    rows = max(served.num_rows, 1)
    found: dict[str, float] = {}
    if "fallback" in served.column_names:
        found["fallback_share"] = (pc.sum(served["fallback"]).as_py() or 0) / rows
    names = [column.column for column in reference.columns if column.column in served.column_names]
    return found | {f"null_share:{name}": served[name].null_count / rows for name in names if served[name].null_count}


def _column_faults(
    column: ColumnReference, served: pa.Table, allowed: DeclaredValues, null_share: float, minimum_rows: int
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
        outside = foreign_share(text, allowed) if is_text(array.type) else 0.0
        row_codes, _ = codes(text)
        found = _repetition_faults(column, row_codes[row_codes >= 0].astype(np.float64), minimum_rows)
    else:
        column_values = floats(array)
        values = finite(column_values)
        missing = 1 - len(values) / len(column_values)
        outside = outside_share(values, allowed)
        found = _repetition_faults(column, values, minimum_rows)
        if len(values) >= minimum_rows and not column.constant:
            found |= _magnitude_faults(column, values)
    error = np.sqrt(column.null_share * (1 - column.null_share) / served.num_rows)
    if missing > column.null_share + max(null_share, DEVIATIONS * error):
        found[f"null:{name}"] = missing
    if outside > column.outside + TOLERATED:
        found[f"range:{name}"] = outside
    return found


def _repetition_faults(column: ColumnReference, values: Floats, minimum_rows: int) -> dict[str, float]:
    """Constant or stale, compared with the longest run of the reference, because some columns change rarely."""
    if column.constant or len(values) < minimum_rows:
        return {}
    run = longest_run(values)
    if run == len(values) and run > column.longest_run:
        return {f"constant:{column.column}": float(run)}
    if run >= max(RUN, 5 * column.longest_run) and run >= 0.1 * len(values):
        return {f"stale:{column.column}": run / len(values)}
    return {}


def _magnitude_faults(column: ColumnReference, values: Floats) -> dict[str, float]:
    """A factor between the window's and the reference's values, or values far beyond the reference's range."""
    factor = _unit_factor(column, values)
    if factor is not None:
        return {f"unit:{column.column}": factor}
    largest = max(abs(column.minimum or 0.0), abs(column.maximum or 0.0))
    far = float(np.count_nonzero(np.abs(values) > FAR * largest) / len(values)) if largest > 0 else 0.0
    return {f"range:{column.column}": far} if far > TOLERATED else {}


def _unit_factor(column: ColumnReference, values: Floats) -> float | None:
    """The factor of a changed unit: the window has the reference's distribution times this factor."""
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
    return best[1] if best is not None and best[0] < SAME_SHAPE + _expected_distance(column, len(values)) else None


def _expected_distance(column: ColumnReference, rows: int) -> float:
    """The mean distance of two samples of one distribution: √((k − 1) / 8 (1/n + 1/m))."""
    return float(np.sqrt((len(column.counts) - 1) / 8 * (1 / rows + 1 / max(column.valid, 1))))
