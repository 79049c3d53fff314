"""Arrow columns as the arrays that window and as-of code works on: int64 times, float64 numbers, codes for keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.errors import DataError
from evermodel.features.measures import Flags, Floats
from evermodel.features.timeline import Ints

_SMALL = 1 << 31


def micros_of(column: pa.ChunkedArray) -> Ints:
    """A time or integer column as int64 (times in microseconds); DataError where there are nulls."""
    if column.null_count:
        raise DataError(f"{column.null_count} of {len(column)} times or sequence numbers are null")
    if pa.types.is_timestamp(column.type) and column.type.unit != "us":
        column = column.cast(pa.timestamp("us", tz=column.type.tz))
    return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)


def as_number(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """float64; a bool counts 0 or 1, a time its microseconds, NaN is null. Text stays text."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
    if is_text(column.type):
        return column
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    column = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type is text, which no sum can take."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def floats(column: pa.ChunkedArray) -> Floats:
    """float64[n], NaN where null; DataError of text."""
    if is_text(column.type):
        raise DataError(f"a column of type {column.type} holds no numbers")
    return np.asarray(as_number(column).to_numpy(), np.float64)


def flags(column: pa.ChunkedArray) -> Flags:
    """bool[n], False where null."""
    return np.asarray(column.is_valid().to_numpy(), np.bool_)


def entity_codes(left: Sequence[pa.ChunkedArray], right: Sequence[pa.ChunkedArray]) -> tuple[Ints, Ints]:
    """The same code ≥ 0 for the same key in both tables, −1 where a part of the key is null. Keys: one or more columns."""
    parts = [codes_of(a, b) for a, b in zip(left, right, strict=True)]
    one, other = parts[0]
    for a, b in parts[1:]:
        width = int(max(a.max(initial=0), b.max(initial=0))) + 1
        both = np.concatenate(
            [np.where((one < 0) | (a < 0), -1, one * width + a), np.where((other < 0) | (b < 0), -1, other * width + b)]
        )
        values, dense = np.unique(both, return_inverse=True)
        dense = dense - int(len(values) > 0 and values[0] < 0)
        one, other = dense[: len(one)], dense[len(one) :]
    return one, other


def codes_of(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """The same for one column. Small integers are their own codes; anything else is numbered."""
    if left.type != right.type:
        left, right = left.cast(pa.string()), right.cast(pa.string())
    if pa.types.is_integer(left.type):
        a, b = (np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy(), np.int64) for column in (left, right))
        known = [pc.min_max(column)["min"].as_py() or 0 for column in (left, right)]
        if min(known) >= 0 and max(a.max(initial=0), b.max(initial=0)) < _SMALL:
            return a, b
    encoded = pa.chunked_array([*left.chunks, *right.chunks], type=left.type).combine_chunks().dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), np.int64)
    return codes[: len(left)], codes[len(left) :]
