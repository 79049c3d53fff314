"""What the data stage asks of Arrow tables: times as integers, a column put in place, a digest of content."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.errors import DataError

TIME = pa.timestamp("us", tz="UTC")
Int64 = npt.NDArray[np.int64]


def int64(column: pa.ChunkedArray | pa.Array) -> Int64:
    """A column of integers or times (as microseconds) without nulls → int64[n]."""
    found = column.cast(pa.int64()).to_numpy() if isinstance(column, pa.ChunkedArray) else column.cast(pa.int64())
    return np.asarray(found, dtype=np.int64)


def times_array(values: Int64) -> pa.Array:
    """Microseconds → Arrow times in UTC."""
    return pa.array(values, type=pa.int64()).cast(TIME)


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array, whether it has no chunk or many."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def cell(value: str | int | float | bool, kind: pa.DataType, name: str) -> pa.Scalar:
    """A value of the use-case file as a cell of the column that it is compared with; DataError where it can't be one."""
    try:
        return pa.scalar(value).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{value!r} can't equal {name}, which is {kind}") from None


def put_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Set the column where it is there, append it where it isn't."""
    index = table.schema.get_field_index(name)
    return table.append_column(name, values) if index < 0 else table.set_column(index, name, values)


def table_digest(table: pa.Table) -> str:
    """sha256 over names, types, nulls and values: the same however the table is chunked or its columns ordered."""
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        column = one_array(table.column(name))
        digest.update(json.dumps([name, str(column.type), len(column)]).encode())
        for part in _canonical(column):
            digest.update(part.tobytes())
    return digest.hexdigest()


def _canonical(column: pa.Array) -> list[npt.NDArray[Any]]:
    """Validity, then values with one value under every null; text as lengths and bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_null(column.type):
        return [valid]
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.fill_null(column.cast(pa.large_string()), "")
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset : column.offset + len(column) + 1]
        text = np.frombuffer(column.buffers()[2] or b"", dtype=np.uint8)
        return [valid, np.diff(offsets), text[offsets[0] : offsets[-1]] if len(column) else text[:0]]
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return [valid, pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy(zero_copy_only=False)]
    return _canonical(column.cast(pa.string()))
