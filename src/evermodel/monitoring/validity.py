"""The bounds and values that a use case declares for its columns, and the share of rows outside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.columns import codes, floats, is_text
from evermodel.monitoring.statistics import Floats
from evermodel.use_case import ColumnFeature, UseCase, feature_columns


@dataclass(frozen=True)
class DeclaredValues:
    """Bounds and values of one column; None if not declared."""

    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] | None = None


def declared_values(use_case: UseCase) -> dict[str, DeclaredValues]:
    """For each feature column: the feature's own bounds (`valid_min`, `valid_max`), or the field's bounds and values."""
    found: dict[str, DeclaredValues] = {}
    fields = {field.name: field for field in use_case.prediction_source.fields}
    for feature in use_case.features:
        field = fields.get(feature.field or feature.name) if isinstance(feature, ColumnFeature) else None
        low = feature.valid_min if feature.valid_min is not None else (field.min if field else None)
        high = feature.valid_max if feature.valid_max is not None else (field.max if field else None)
        for column in feature_columns(feature):
            found[column] = DeclaredValues(low, high, field.values if field else None)
    return found


def outside_share(values: Floats, allowed: DeclaredValues) -> float:
    """Share of values[n] outside the declared bounds; 0 if there are no values or no bounds."""
    if len(values) == 0 or (allowed.minimum is None and allowed.maximum is None):
        return 0.0
    low = -np.inf if allowed.minimum is None else allowed.minimum
    high = np.inf if allowed.maximum is None else allowed.maximum
    return float(np.count_nonzero((values < low) | (values > high)) / len(values))


def foreign_share(array: pa.Array, allowed: DeclaredValues) -> float:
    """Share of the texts (without nulls) that aren't declared; 0 if there are no texts, or no declared values."""
    valid = len(array) - array.null_count
    if allowed.values is None or valid == 0:
        return 0.0
    member = pc.sum(pc.is_in(array, value_set=pa.array(allowed.values, pa.string()))).as_py() or 0
    return float((valid - member) / valid)


def duplicate_share(use_case: UseCase, rows: pa.Table) -> float:
    """Share of rows that repeat an earlier one: the same row id, or the same time and the same fields.

    The fields are the source's `unique` columns if it declares them; otherwise all fields of the prediction source that
    the table has, except those of labels.
    """
    if rows.num_rows < 2:
        return 0.0
    source = use_case.prediction_source
    outcomes = {label.field or label.name for label in use_case.labels if label.kind == "column"}
    names = source.unique or ("event_time", *(field.name for field in source.fields), *source.constants)
    keys = [name for name in names if name in rows.column_names and name not in outcomes]
    repeated = _repeats(rows, keys) if len(keys) > 1 or source.unique else 0.0
    if "row_id" not in rows.column_names:
        return repeated
    return max(
        repeated, _repeats(rows.filter(pc.is_valid(rows["row_id"])), ["row_id"])
    )  # without an event there is no id


def _repeats(rows: pa.Table, names: list[str]) -> float:
    """1 − distinct / rows, by a 64-bit hash of the columns; a collision among a million rows has a chance of 3e-8."""
    if not names or rows.num_rows == 0:
        return 0.0
    mixed = np.zeros(rows.num_rows, dtype=np.uint64)
    for name in names:
        mixed = (mixed ^ _hash_input(rows[name])) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return 1.0 - len(np.unique(mixed)) / int(rows.num_rows)


def _hash_input(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    if is_text(column.type):
        return codes(column)[0].view(np.uint64)
    if pa.types.is_timestamp(column.type) or pa.types.is_integer(column.type):
        return np.asarray(pc.fill_null(pc.cast(column, pa.int64()), -1).to_numpy()).astype(np.int64).view(np.uint64)
    return floats(column).astype(np.float64).view(np.uint64)
