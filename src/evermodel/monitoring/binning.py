"""Columns of a table as arrays, and arrays as counts: one pass over a column, however long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.monitoring.statistics import Floats

Ints = NDArray[np.int64]
SAMPLE = 100_000  # values that quantiles are taken from; the counts are of all


def is_text(array: pa.ChunkedArray | pa.Array) -> bool:
    """Text, plain or as a dictionary."""
    found = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))


def numbers(array: pa.ChunkedArray | pa.Array) -> Floats:
    """A column of numbers, bools or times as float64[n], nan where null. ArrowInvalid of text that is no number."""
    if pa.types.is_timestamp(array.type):
        array = pc.cast(array, pa.int64())
    if array.type != pa.float64():
        array = pc.cast(
            pc.cast(array, pa.int8()) if pa.types.is_boolean(array.type) else array, pa.float64(), safe=False
        )
    values: Floats = np.asarray(
        array.to_numpy() if isinstance(array, pa.ChunkedArray) else array.to_numpy(zero_copy_only=False)
    )
    return values


def finite(values: Floats) -> Floats:
    """Without nan and infinities; the same array where there are none."""
    with np.errstate(over="ignore", invalid="ignore"):
        clean = bool(np.isfinite(values.sum()))
    return values if clean else values[np.isfinite(values)]


def texts(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if isinstance(combined, pa.ChunkedArray):
        combined = combined.chunk(0) if combined.num_chunks else pa.array([], combined.type)
    return combined if pa.types.is_string(combined.type) else pc.cast(combined, pa.string())


def bin_counts(values: Floats, edges: Floats) -> Ints:
    """How many of values[n] (nan: none) fall below, between and above edges[m], ascending → int64[m + 1].

    Long columns: one comparison an edge over pieces that stay in the cache, ten times faster than a binary search
    for each value, whose branches can't be predicted.
    """
    if len(values) < 4096 or len(edges) > 256:
        kept = finite(values)
        return np.bincount(np.searchsorted(edges, kept, side="right"), minlength=len(edges) + 1).astype(np.int64)
    size = 32_768
    mask = np.empty(size, dtype=np.bool_)
    at_least = np.zeros(len(edges) + 2, dtype=np.int64)
    for start in range(0, len(values), size):
        piece = values[start : start + size]
        part = mask[: len(piece)]
        known = int(np.count_nonzero(np.isfinite(piece, out=part)))
        if known < len(piece):
            piece = np.where(part, piece, np.nan)  # nan compares as False, an infinity wouldn't
        at_least[0] += known
        for index, edge in enumerate(edges, start=1):
            at_least[index] += np.count_nonzero(np.greater_equal(piece, edge, out=part))
    return -np.diff(at_least)


def category_counts(array: pa.Array, categories: Sequence[str]) -> Ints:
    """Rows of each category, then of all others, then of null → int64[len(categories) + 2]."""
    codes = pc.index_in(array, value_set=pa.array(categories, pa.string()))
    found = np.asarray(pc.fill_null(codes, len(categories)).to_numpy(zero_copy_only=False), dtype=np.int64)
    counts = np.bincount(found, minlength=len(categories) + 2).astype(np.int64)
    counts[-1], counts[-2] = array.null_count, counts[-2] - array.null_count
    return counts


def bin_edges(values: Floats, *, bins: int, fine: bool = False) -> Floats:
    """Inner edges for finite values[n]: smallest value, quantiles, and just above the largest value.

    At most `bins` distinct values: one bin each. A value that fills whole quantiles gets a bin of its own. `fine`
    (for `ks` and `wasserstein`, whose answers depend on the bins' width): 100 quantiles and 100 equal steps.
    """
    low, high = float(values.min()), float(values.max())
    sample = np.sort(values[:: max(1, len(values) // SAMPLE)])
    distinct = sample[np.concatenate([[True], np.diff(sample) > 0])]
    if len(distinct) <= bins:
        inner = distinct
    else:
        count = 100 if fine else bins
        quantiles = sample[(np.arange(1, count) * len(sample)) // count]
        inner, repeats = np.unique(quantiles, return_counts=True)
        inner = np.concatenate([inner, np.nextafter(inner[repeats > 1], np.inf)])
        if fine:
            inner = np.concatenate([inner, np.linspace(low, high, 101)])
    edges: Floats = np.unique(np.concatenate([[low], inner, [np.nextafter(high, np.inf)]]))
    return edges


def longest_run(codes: NDArray[np.float64] | Ints) -> int:
    """The most rows in a row with one value; nan breaks a run."""
    if len(codes) == 0:
        return 0
    breaks = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    return int(np.diff(np.concatenate([[0], breaks, [len(codes)]])).max())
