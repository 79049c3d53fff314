"""Typed columns to and from Arrow: the types of fields, nulls, numbers, times, text, and codes of values.

Every function takes an Arrow array or chunked array, and reads a column once with vectorised code. A null is `False`
in a mask, NaN among floats, and −1 among codes, unless the function says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.errors import DataError

Column: TypeAlias = "pa.ChunkedArray | pa.Array"
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

TIME: Final = pa.timestamp("us", tz="UTC")
#: The Arrow type of each field type of the use-case file.
ARROW_TYPES: Final[dict[str, pa.DataType]] = {
    "float": pa.float64(),
    "int": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": TIME,
}
_SMALL: Final = 1 << 31  # integers below it are their own codes

# types and cells ----------------------------------------------------------------------------------------------------


def is_text(kind: pa.DataType) -> bool:
    """Whether columns of this type hold text, plain or as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def to_scalar(value: str | int | float | bool, kind: pa.DataType, name: str) -> pa.Scalar:
    """A value of the use-case file in the type of the column that it is compared with; DataError if that can't be."""
    try:
        return pa.scalar(value).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{value!r} can't equal {name}, which is {kind}") from None


def as_array(column: Column) -> pa.Array:
    """A column as one array, however many chunks it has."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def put_column(table: pa.Table, name: str, values: Column) -> pa.Table:
    """Replaces the column of this name, or appends it if the table has none."""
    index = table.schema.get_field_index(name)
    return table.append_column(name, values) if index < 0 else table.set_column(index, name, values)


# masks --------------------------------------------------------------------------------------------------------------


def valid_mask(column: Column, *, nan_is_null: bool = False) -> Flags:
    """bool[n]: False if the value is null; with `nan_is_null`, False if it is NaN too."""
    if nan_is_null:
        return ~_flags(pc.is_null(column, nan_is_null=True))
    return _flags(column.is_valid())


def true_mask(column: Column) -> Flags:
    """A column of booleans → bool[n], False if the value is null."""
    return _flags(pc.fill_null(column, False))


def _flags(column: Column) -> Flags:
    return np.asarray(_to_numpy(column), np.bool_)


def _to_numpy(column: Column) -> NDArray[Any]:
    found: NDArray[Any] = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return found


# numbers, times and text --------------------------------------------------------------------------------------------


def floats(column: Column) -> Floats:
    """float64[n], NaN if null; a bool counts 0 or 1, a time its microseconds. DataError if it holds none."""
    if is_text(column.type):
        raise DataError(f"a column of type {column.type} holds no numbers")
    try:
        return np.asarray(_to_numpy(_as_float64(column)), np.float64)
    except pa.ArrowNotImplementedError:
        raise DataError(f"a column of type {column.type} holds no numbers") from None


def as_numbers(column: Column) -> Column:
    """The column as Arrow float64, null if NaN; a text column stays as it is."""
    if is_text(column.type):
        return column
    column = _as_float64(column)
    return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)


def _as_float64(column: Column) -> Column:
    kind = column.type
    if kind == pa.float64():
        return column
    if pa.types.is_dictionary(kind):
        return _as_float64(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        column = _in_microseconds(column).cast(pa.int64())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    return column.cast(pa.float64(), safe=False)


def ints(column: Column) -> Ints:
    """A column of integers, or of times in microseconds → int64[n]. DataError if it has nulls."""
    if column.null_count:
        raise DataError(f"{column.null_count} of {len(column)} times or sequence numbers are null")
    return np.asarray(_to_numpy(_in_microseconds(column).cast(pa.int64())), np.int64)


def _in_microseconds(column: Column) -> Column:
    kind = column.type
    return column.cast(pa.timestamp("us", tz=kind.tz)) if pa.types.is_timestamp(kind) and kind.unit != "us" else column


def times_array(values: Ints) -> pa.Array:
    """Microseconds → Arrow times in UTC."""
    return pa.array(values, type=pa.int64()).cast(TIME)


def texts(column: Column) -> pa.Array:
    """The column as one array of text, null if null."""
    array = as_array(column)
    return array if pa.types.is_string(array.type) else array.cast(pa.string())


def plain_values(column: Column) -> NDArray[Any]:
    """What a function of a user's own gets: object[n] with None if the column is text, else float64[n] with NaN."""
    return np.asarray(column.to_pylist(), object) if is_text(column.type) else floats(column)


# codes --------------------------------------------------------------------------------------------------------------


def codes(column: Column) -> tuple[Ints, pa.Array]:
    """(each row's code, the distinct values by code); null and NaN are −1. A time is its number.

    Codes go by first appearance; those of a dictionary column are the dictionary's own.
    """
    array = as_array(column)
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, np.int64), array.slice(0, 0)
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    return _indices(encoded), encoded.dictionary


def codes_with_null(column: Column) -> Ints:
    """Each row's code by first appearance; null has a code of its own."""
    return _indices(pc.dictionary_encode(as_array(column), null_encoding="encode"))


def codes_in(column: Column, vocabulary: Sequence[str], *, other: int = -1, null: int = -1) -> Ints:
    """The place in `vocabulary` of each value's text; `other` if the value isn't in it, `null` if it is null."""
    array = texts(column)
    found = pc.index_in(array, value_set=pa.array(vocabulary, pa.string()), skip_nulls=True)
    places = np.asarray(pc.fill_null(found, other).to_numpy(zero_copy_only=False), np.int64)
    return np.where(valid_mask(array), places, null) if array.null_count and null != other else places


def shared_codes(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """The same code ≥ 0 for the same value in both columns, −1 if it is null. Columns of two types are compared as text.

    Small integers are their own codes; other values are numbered.
    """
    if left.type != right.type:
        left, right = left.cast(pa.string()), right.cast(pa.string())
    if pa.types.is_integer(left.type):
        a, b = (np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy(), np.int64) for column in (left, right))
        known = [pc.min_max(column)["min"].as_py() or 0 for column in (left, right)]
        if min(known) >= 0 and max(a.max(initial=0), b.max(initial=0)) < _SMALL:
            return a, b
    both = pa.chunked_array([*left.chunks, *right.chunks], type=left.type)
    found = _indices(both.combine_chunks().dictionary_encode())
    return found[: len(left)], found[len(left) :]


def key_codes(left: Sequence[pa.ChunkedArray], right: Sequence[pa.ChunkedArray]) -> tuple[Ints, Ints]:
    """The same code ≥ 0 for the same key in both tables, −1 if a part of it is null. A key is one column or more."""
    parts = [shared_codes(a, b) for a, b in zip(left, right, strict=True)]
    ours, theirs = parts[0]
    for a, b in parts[1:]:
        width = int(max(a.max(initial=0), b.max(initial=0))) + 1
        pairs = (np.where((key < 0) | (part < 0), -1, key * width + part) for key, part in ((ours, a), (theirs, b)))
        values, dense = np.unique(np.concatenate([*pairs]), return_inverse=True)
        dense = dense - int(len(values) > 0 and values[0] < 0)
        ours, theirs = dense[: len(ours)], dense[len(ours) :]
    return ours, theirs


def row_codes(columns: Iterable[Column], rows: int) -> Ints:
    """int64[rows]: the same code ≥ 0 for rows that are equal in every column; null equals null."""
    found = np.zeros(rows, np.int64)
    for column in columns:
        part = codes_with_null(column)
        found = np.unique(found * (int(part.max(initial=0)) + 1) + part, return_inverse=True)[1]
    return found


def _indices(encoded: pa.Array) -> Ints:
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), np.int64)
