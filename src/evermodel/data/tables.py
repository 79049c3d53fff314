"""The digest of a table's content."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.columns import as_array


def table_digest(table: pa.Table) -> str:
    """sha256 over names, types, nulls and values: the same however the table is chunked or its columns ordered."""
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        column = as_array(table.column(name))
        digest.update(json.dumps([name, str(column.type), len(column)]).encode())
        for part in _canonical(column):
            digest.update(part.tobytes())
    return digest.hexdigest()


def _canonical(column: pa.Array) -> list[NDArray[Any]]:
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
