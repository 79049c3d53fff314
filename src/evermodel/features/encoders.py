"""Encoders of one column: its values → a dense number, or the id of an embedding's row. `transforms` combines them.

Each is frozen and holds all of its fit, so the same values always get the same code, offline and online.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from evermodel.columns import Floats, Ints, codes, floats
from evermodel.errors import DataError

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Numeric:
    """One standardised column. `fill` is the raw value of a missing one; later rounds don't change it."""

    name: str
    mean: float
    scale: float
    fill: float
    missing: str

    def encode(self, values: Floats) -> Floats:
        """float64[n] with NaN for missing → z float64[n]."""
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

    def encode(self, column: pa.ChunkedArray) -> Ints:
        places, values = codes(column)
        known = self._numbers
        return np.array([*(known.get(value, 0) for value in values.to_pylist()), known.get(None, 0)], np.int64)[places]

    def grow(self, column: pa.ChunkedArray) -> Vocabulary:
        """The vocabulary with new values appended, sorted: no old id changes."""
        seen = set(self.values)
        return replace(self, values=self.values + tuple(value for value in distinct(column) if value not in seen))


@dataclass(frozen=True)
class Hashing:
    """Bucket and sign by BLAKE2b of the feature's name and the value's text: always the same, on every machine."""

    kind: ClassVar[str] = "hash"
    name: str
    dim: int
    size: int

    @property
    def buckets(self) -> int:
        return 2 * self.size + 1

    def encode(self, column: pa.ChunkedArray) -> Ints:
        places, values = codes(column)
        return np.array([*(self._id(value) for value in values.to_pylist()), 0], dtype=np.int64)[places]

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

    def encode(self, column: pa.ChunkedArray) -> Ints:
        values = numbers(self.name, column)
        ids = 1 + np.searchsorted(np.array(self.edges), values, side="right").astype(np.int64)
        return np.where(np.isfinite(values), ids, 0)


IdEncoder = Vocabulary | Hashing | BinEncoder
ID_ENCODERS: dict[str, type[Vocabulary] | type[Hashing] | type[BinEncoder]] = {
    encoder.kind: encoder for encoder in (Vocabulary, Hashing, BinEncoder)
}


def id_encoder(tree: dict[str, Any]) -> IdEncoder:
    """The encoder of a `kind` and fields, as JSON has them."""
    made = ID_ENCODERS[tree.pop("kind")](**tree)
    if isinstance(made, Vocabulary):
        return replace(made, values=tuple(made.values))
    return replace(made, edges=tuple(made.edges)) if isinstance(made, BinEncoder) else made


def quantile_edges(values: Floats, bins: int) -> tuple[float, ...]:
    """The inner edges of so many bins, each once: fewer if values repeat, none if there are no values."""
    present = values[np.isfinite(values)]
    if not len(present):
        return ()
    inner = np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1])
    return tuple(float(edge) for edge in np.unique(inner))


def numbers(name: str, column: pa.ChunkedArray) -> Floats:
    """float64[n]; null, NaN and infinite are NaN. DataError if the column holds no numbers."""
    try:
        values = floats(column)
    except DataError:
        raise DataError(f"feature {name!r} holds {column.type}, not numbers; encode it by embed or hash") from None
    return np.where(np.isfinite(values), values, np.nan)


def distinct(column: pa.ChunkedArray) -> tuple[Value, ...]:
    """The column's values, each once and sorted; None is the last if there are nulls."""
    places, values = codes(column)
    found: Iterable[Value] = sorted(values.to_pylist(), key=lambda value: (isinstance(value, str), value))
    return (*found, None) if (places < 0).any() else tuple(found)
