"""Raw columns → events of declared types, and rejects with row, field, reason and value. No row is dropped silently.

A row is rejected once, for its first fault: the line itself, its event time, its creation time, then its fields in the
order of the use-case file. So valid rows + rejects = raw rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.clock import micros
from evermodel.columns import TIME, Flags, times_array, true_mask, valid_mask
from evermodel.data.readers import MALFORMED
from evermodel.errors import DataError, nearest
from evermodel.use_case import Clock, Field, Source, UseCase

REJECTS = pa.schema([("row", pa.int64()), ("field", pa.string()), ("reason", pa.string()), ("value", pa.string())])
_FLOAT = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?$"
_INT = r"^[-+]?\d{1,18}$"
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


class Rejects:
    """The first fault of each row, if it has one."""

    def __init__(self, rows: int) -> None:
        self.field: NDArray[np.object_] = np.full(rows, None, dtype=object)
        self.reason: NDArray[np.object_] = np.full(rows, None, dtype=object)
        self.value: NDArray[np.object_] = np.full(rows, None, dtype=object)

    @property
    def bad(self) -> Flags:
        return np.asarray(self.field != None, dtype=bool)  # noqa: E711 (elementwise)

    def add(self, mask: Flags, field: str, reason: str, values: pa.ChunkedArray | pa.Array | None) -> None:
        rows = np.flatnonzero(mask & ~self.bad)
        if not len(rows):
            return
        self.field[rows], self.reason[rows] = field, reason
        if values is not None:
            self.value[rows] = [
                None if value is None else str(value) for value in values.take(pa.array(rows)).to_pylist()
            ]

    def table(self) -> pa.Table:
        rows = np.flatnonzero(self.bad)
        columns = [rows, self.field[rows], self.reason[rows], self.value[rows]]
        return pa.Table.from_arrays(
            [pa.array(list(values), field.type) for values, field in zip(columns, REJECTS, strict=True)], schema=REJECTS
        )


def validate(use_case: UseCase, source: Source, raw: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(events without ingest_seq in the raw rows' order, rejects: row int64 from 0, field, reason, value).

    DataError if a declared column isn't in `raw`.
    """
    _check_columns(use_case, source, raw)
    rejects = Rejects(raw.num_rows)
    if MALFORMED in raw.column_names:
        text = raw.column(MALFORMED)
        rejects.add(valid_mask(text), "row", "not as many cells as columns", text)
    event_time = _clock(source, "event_time", source.event_time, raw, rejects)
    created = event_time
    if source.created_time is not None:
        created = _clock(source, "created_time", source.created_time, raw, rejects)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in source.fields:
        columns[field.name] = _field(field, raw.column(field.column or field.name), rejects)
    for name, constant in source.constants.items():
        columns[name] = pa.repeat(pa.scalar(constant), raw.num_rows)
    columns |= {"event_time": event_time, "created_time": created}
    good = pa.array(~rejects.bad)
    return pa.table(columns).filter(good).combine_chunks(), rejects.table()


def raw_column(source: Source, name: str) -> str:
    """The raw column of a clock's field: that of the declared field of this name, or the name itself."""
    return next((field.column or field.name for field in source.fields if field.name == name), name)


def _check_columns(use_case: UseCase, source: Source, raw: pa.Table) -> None:
    clocks = [clock for clock in (source.event_time, source.created_time) if clock is not None and clock.field]
    wanted = [field.column or field.name for field in source.fields]
    wanted += [raw_column(source, clock.field or "") for clock in clocks]
    for name in wanted:
        if name not in raw.column_names:
            where = f"{use_case.name}.{source.name}"
            raise DataError(f"{where}: the source has no column {name!r}; {nearest(name, raw.column_names)}")


def _clock(source: Source, name: str, clock: Clock, raw: pa.Table, rejects: Rejects) -> pa.Array:
    """The times of all rows; a missing or unreadable time is a reject."""
    if clock.row_number is not None:
        start, step = micros(clock.row_number.start), clock.row_number.step
        return times_array(start + step * np.arange(raw.num_rows, dtype=np.int64))
    column = _decoded(raw.column(raw_column(source, clock.field or "")))
    times = parse_times(column, clock.format)
    rejects.add(~valid_mask(column), name, "null", None)
    rejects.add(~valid_mask(times), name, "not a time" + (f" like {clock.format}" if clock.format else ""), column)
    return times


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes dictionaries, gives text one type, and turns NaN into null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


def _field(field: Field, column: pa.ChunkedArray, rejects: Rejects) -> pa.ChunkedArray:
    """The column in its declared type; a cell that can't be read is null, and a reject."""
    column = _decoded(column)
    try:
        values = _PARSERS[field.type](column)
    except pa.ArrowException:
        raise DataError(f"field {field.name}: a column of type {column.type} can't be read as {field.type}") from None
    missing = ~valid_mask(column)
    if field.type != "string" and pa.types.is_string(column.type):
        empty = ("", "nan") if field.type == "float" else ("",)
        missing |= true_mask(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), value_set=pa.array(empty)))
    if not field.nullable:
        rejects.add(missing, field.name, "null", None)
    rejects.add(~missing & ~valid_mask(values), field.name, f"not a {field.type}", column)
    if field.type == "float":
        rejects.add(true_mask(pc.is_inf(values)), field.name, "not finite", column)
    if field.type in ("float", "int") and field.min is not None:
        rejects.add(true_mask(pc.less(values, field.min)), field.name, f"below {field.min:g}", column)
    if field.type in ("float", "int") and field.max is not None:
        rejects.add(true_mask(pc.greater(values, field.max)), field.name, f"above {field.max:g}", column)
    if field.values is not None:
        text = values.cast(pa.string())
        allowed = pc.is_in(text, value_set=pa.array(field.values, pa.string()))
        rejects.add(valid_mask(text) & ~true_mask(allowed), field.name, "not an allowed value", column)
    return values


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column.cast(pa.float64())
    return _read_text(column, _FLOAT, pa.float64())


def _ints(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        whole = pc.replace_substring_regex(column, r"\.0*\s*$", "")  # 12.0, as a table with gaps writes 12
        return _read_text(whole, _INT, pa.int64())
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        numbers = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.round(numbers), numbers), pc.less(pc.abs(numbers), 2.0**53))
        return pc.if_else(whole, numbers, pa.scalar(None, pa.float64())).cast(pa.int64())
    return column.cast(pa.int64())


def _read_text(column: pa.ChunkedArray, pattern: str, kind: pa.DataType) -> pa.ChunkedArray:
    """The text as numbers, null if it is none."""
    trimmed = pc.utf8_trim_whitespace(column)
    readable = pc.match_substring_regex(trimmed, pattern)
    plain = pc.replace_substring_regex(pc.if_else(readable, trimmed, pa.scalar(None, pa.string())), r"^\+", "")
    return plain.cast(kind)


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _bools(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_boolean(column.type):
        return column
    if not pa.types.is_string(column.type):
        column = _ints(column).cast(pa.string())
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    true, false = (pc.is_in(lower, value_set=pa.array(words)) for words in (_TRUE, _FALSE))
    return pc.if_else(true, True, pc.if_else(false, False, pa.scalar(None, pa.bool_())))


def parse_times(column: pa.ChunkedArray, pattern: str | None = None) -> pa.ChunkedArray:
    """Times in UTC; a time without zone is UTC; null if the cell holds no time.

    Text: ISO 8601, or by the strptime `pattern`. Whole numbers: only with the pattern `%s`, seconds since 1970.
    """
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None:
            return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(TIME)
        return column.cast(TIME, safe=False)
    if pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.int64()).cast(TIME)
    if pattern == "%s":
        return pc.multiply(_ints(column), 1_000_000).cast(TIME)
    if not pa.types.is_string(column.type):
        raise DataError(
            f"a column of type {column.type} holds no times; numbers need format: '%s' (seconds since 1970)"
        )
    text = pc.utf8_trim_whitespace(column).to_pandas()
    parsed = pd.to_datetime(text, format=pattern or "ISO8601", errors="coerce", utc=True)
    return pa.chunked_array([pa.array(parsed.dt.as_unit("us"), from_pandas=True).cast(TIME)])


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return parse_times(column)


_PARSERS: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "float": _floats,
    "int": _ints,
    "string": _strings,
    "bool": _bools,
    "timestamp": _times,
}
