"""The inputs of window computations: measures, events and rows; and exact sums. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evermodel.columns import Flags, Floats, Ints
from evermodel.errors import DataError

Aggregate = Literal["count", "sum", "mean", "rate", "last", "distinct", "lag"]
Scalar = float | int | str | bool

ADDED = frozenset({"sum", "mean", "rate"})  # the aggregates of exact sums
LIMIT = 2**63


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One column: an aggregate of a field over a span. `lag` has no span: the `steps`-th event before."""

    column: str
    aggregate: Aggregate
    field: str | None = None
    span: int = 0
    delay: int = 0
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class FieldArrays:
    """A field's values, n of them. `bulk` needs `valid`, and `values` for sums, or `codes` for distinct counts."""

    valid: Flags  # n, False if null
    values: NDArray[Any] | None = None  # n: float64 for sums; any type for `Incremental`
    codes: Ints | None = None  # n: the number of each distinct value
    resolution: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EventArrays:
    """n events of one source. `entity` holds codes ≥ 0 for `bulk`, keys (int or str) for `Incremental`."""

    entity: NDArray[Any]
    time: Ints
    seq: Ints
    created: Ints
    fields: Mapping[str, FieldArrays] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TargetRows:
    """m rows to compute for. `entity`: codes, −1 if the key is null; `seq`: None if the events are of another source."""

    entity: Ints
    time: Ints
    seq: Ints | None


def quantise(values: Floats, resolution: float) -> Ints:
    """Whole multiples of `resolution`, ties to even; DataError if one doesn't fit into int64."""
    units = np.rint(np.asarray(values, np.float64) / resolution)
    if not np.all(np.abs(units) < LIMIT):  # False for NaN, too
        raise DataError(overflow(resolution))
    return units.astype(np.int64)


def overflow(resolution: float) -> str:
    return f"a window sum leaves int64 at resolution {resolution:g}; give the field a coarser `resolution`"


def mean(total: Any, resolution: float, number: Any) -> Any:
    """The one expression of a mean, for arrays and for Python ints: int → float64, ×, ÷."""
    return total * resolution / number


def check_sums(units: Ints, start: Ints, end: Ints, resolution: float) -> None:
    """DataError if a window's sum doesn't fit into int64. The halves' sums are exact for 2³¹ events."""
    if np.abs(units.astype(np.float64)).sum() < LIMIT / 2:
        return
    high, low = np.append(0, np.cumsum(units >> 32)), np.append(0, np.cumsum(units & 0xFFFFFFFF))
    total = (high[end] - high[start]) + ((low[end] - low[start]) >> 32)
    if np.any((total < -(2**31)) | (total >= 2**31)):
        raise DataError(overflow(resolution))
