"""Encoders of one column: its values → a dense number, or the id of an embedding's row. What `transforms` is made of.

Each is frozen and holds all that it was fitted on, so the same values encode the same offline, online and for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.errors import DataError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Numeric:
    """One standardised column. `fill` is the raw value that stands for a missing one; it is never moved."""

    name: str
    mean: float
    scale: float
    fill: float
    missing: str

    def encode(self, values: Floats) -> Floats:
        """float64[n] with nan for missing → z float64[n]."""
        if self.scale == 0:
            return np.zeros(len(values))
        encoded: Floats = (np.where(np.isfinite(values), values, self.fill) - self.mean) / self.scale
        return encoded


@dataclass(frozen=True)
class Vocabulary:
    """Seen values → 1, 2, …; anything else is 0, the unknown."""

    kind: ClassVar[str] = "embed"
    name: str
    dim: int
    values: tuple[Value, ...]

    @property
    def buckets(self) -> int:
        return len(self.values) + 1

    @cached_property
    def _numbers(self) -> dict[Value, int]:
        return {value: number for number, value in enumerate(self.values, start=1)}

    def encode(self, column: pa.ChunkedArray) -> Ids:
        codes, uniques = _codes(column)
        known = self._numbers
        return np.array([*(known.get(value, 0) for value in uniques), known.get(None, 0)], dtype=np.int64)[codes]

    def grow(self, column: pa.ChunkedArray) -> Vocabulary:
        """The same with the values that it hasn't seen appended, sorted: no old id changes."""
        seen = set(self.values)
        return replace(self, values=self.values + tuple(value for value in distinct(column) if value not in seen))


@dataclass(frozen=True)
class Hashing:
    """Bucket and sign by BLAKE2b of the feature's name and the value's text: the same on every machine, for ever."""

    kind: ClassVar[str] = "hash"
    name: str
    dim: int
    size: int

    @property
    def buckets(self) -> int:
        return 2 * self.size + 1

    def encode(self, column: pa.ChunkedArray) -> Ids:
        codes, uniques = _codes(column)
        return np.array([*(self._id(value) for value in uniques), 0], dtype=np.int64)[codes]

    def _id(self, value: Value) -> int:
        if value is None:
            return 0
        text = value if isinstance(value, str) else repr(int(value)) if float(value).is_integer() else repr(value)
        number = int.from_bytes(blake2b(f"{self.name}\0{text}".encode(), digest_size=8).digest(), "little")
        return 1 + number % self.size + (self.size if number >> 63 else 0)


@dataclass(frozen=True)
class BinEncoder:
    """Between the inner quantile edges of the training part: id = 1 + number of edges ≤ x; 0 = missing."""

    kind: ClassVar[str] = "bins"
    name: str
    dim: int
    edges: tuple[float, ...]

    @property
    def buckets(self) -> int:
        return len(self.edges) + 2

    def encode(self, column: pa.ChunkedArray) -> Ids:
        values = numbers(self.name, column)
        ids = 1 + np.searchsorted(np.array(self.edges), values, side="right").astype(np.int64)
        return np.where(np.isfinite(values), ids, 0)


IdEncoder = Vocabulary | Hashing | BinEncoder
ID_ENCODERS: dict[str, type[Vocabulary] | type[Hashing] | type[BinEncoder]] = {
    encoder.kind: encoder for encoder in (Vocabulary, Hashing, BinEncoder)
}


def id_encoder(tree: dict[str, Any]) -> IdEncoder:
    """The encoder that its own `kind` and fields, as JSON gives them back, describe."""
    made = ID_ENCODERS[tree.pop("kind")](**tree)
    if isinstance(made, Vocabulary):
        return replace(made, values=tuple(made.values))
    return replace(made, edges=tuple(made.edges)) if isinstance(made, BinEncoder) else made


def quantile_edges(values: Floats, bins: int) -> tuple[float, ...]:
    """The inner edges of so many bins, each once: fewer where values repeat, none where there are none."""
    present = values[np.isfinite(values)]
    if not len(present):
        return ()
    inner = np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1])
    return tuple(float(edge) for edge in np.unique(inner))


def numbers(name: str, column: pa.ChunkedArray) -> Floats:
    """float64[n]; null, nan and infinite are nan."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"feature {name!r} holds {kind}, not numbers; encode it by embed or hash")
    values: Floats = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _codes(column: pa.ChunkedArray) -> tuple[Ids, list[Value]]:
    """Each row's index into the distinct values; a null's is −1, so it takes the last place of a lookup."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # an empty column, or one too large for one chunk
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, dtype=np.int64), []
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def distinct(column: pa.ChunkedArray) -> tuple[Value, ...]:
    """The column's values, each once and sorted; None, where there are nulls, is the last."""
    codes, uniques = _codes(column)
    found: Iterable[Value] = sorted(uniques, key=lambda value: (isinstance(value, str), value))
    return (*found, None) if (codes < 0).any() else tuple(found)
