"""Samples of rows without replacement, as ascending row numbers. Randomness comes from the caller's generator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evermodel.columns import Floats, Ints

Item = TypeVar("Item")


def simple(rows: int, size: int, rng: np.random.Generator) -> Ints:
    """`size` of `rows` row numbers, each equally likely; all of them if there are no more."""
    return np.sort(rng.choice(rows, size=min(size, rows), replace=False)).astype(np.int64)


def stratified(strata: NDArray[Any], size: int, rng: np.random.Generator) -> Ints:
    """Each stratum (a value of `strata[n]`) in proportion to its size; rounding is by largest remainder."""
    values, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    if size >= len(codes):
        return np.arange(len(codes), dtype=np.int64)
    exact = counts * size / len(codes)
    wanted = np.floor(exact).astype(np.int64)
    remaining = size - int(wanted.sum())
    wanted[np.argsort(-(exact - wanted), kind="stable")[:remaining]] += 1
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    parts = [order[starts[k] : starts[k + 1]][simple(int(counts[k]), int(wanted[k]), rng)] for k in range(len(values))]
    return np.sort(np.concatenate(parts)).astype(np.int64)


def weighted(weights: Floats, size: int, rng: np.random.Generator) -> Ints:
    """Draws one row after another in proportion to the weights of the remaining rows; weight 0 is never drawn.

    Efraimidis and Spirakis (2006), algorithm A-ES: the `size` largest of log(u) / weight.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if np.any(weights < 0) or not np.all(np.isfinite(weights)):
        raise ValueError("weights must be finite and not negative")
    possible = np.flatnonzero(weights > 0)
    keys = np.log1p(-rng.random(len(possible))) / weights[possible]
    best = np.argsort(-keys, kind="stable")[:size]
    return np.sort(possible[best]).astype(np.int64)


def reservoir(items: Iterable[Item], size: int, rng: np.random.Generator) -> list[Item]:
    """`size` items of a stream of unknown length, each equally likely, in one pass (Vitter 1985, algorithm R)."""
    kept: list[Item] = []
    for index, item in enumerate(items):
        if len(kept) < size:
            kept.append(item)
        elif (place := int(rng.integers(index + 1))) < size:
            kept[place] = item
    return kept
