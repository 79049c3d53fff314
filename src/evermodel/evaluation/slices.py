"""Where a model is good and where it isn't: the metric on parts of the rows, with a minimum support.

Of a ranking's lists, the rows of a slice are ranked among themselves: slice lists by what all their rows share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.evaluation.metrics import Sample, figure
from evermodel.records import SliceScore
from evermodel.use_case import Slice, UseCase

Mask = NDArray[np.bool_]
MOST_VALUES: Final = 50  # the largest parts of a slice are kept
MOST_NUMBERS: Final = 20  # a number with more distinct values than this, and no bins, is cut at its quartiles


@dataclass(frozen=True)
class SliceResult:
    """One part of one slice; a figure is None below the minimum support, or where it isn't defined."""

    slice: Slice
    value: str
    rows: int
    challenger: float | None
    champion: float | None

    def score(self) -> SliceScore:
        return SliceScore(
            slice=self.slice.field, value=self.value, rows=self.rows, metric=self.challenger, champion=self.champion
        )


def measure(
    use_case: UseCase, rows: pa.Table, challenger: Sample, champion: Sample | None, *, metric: str
) -> tuple[SliceResult, ...]:
    """`metric` on each part of each slice, of samples whose rows are `rows`, in the same order."""
    settings = use_case.evaluation

    def of(known: Sample | None, mask: Mask, enough: bool) -> float | None:
        if known is None or not enough:
            return None
        return figure(metric, known.take(mask), k=settings.k, threshold=settings.threshold)

    found = []
    for part in use_case.slices:
        for value, mask in parts(part, rows):
            support = int(mask.sum())
            enough = support >= part.minimum_rows
            ours, theirs = of(challenger, mask, enough), of(champion, mask, enough)
            found.append(SliceResult(part, value, support, ours, theirs))
    return tuple(found)


def parts(part: Slice, rows: pa.Table) -> Iterator[tuple[str, Mask]]:
    """(name, bool[n]) of each part that holds rows; nulls are a part of their own, named `missing`."""
    if rows.num_rows == 0:
        return
    column = rows[part.field].combine_chunks()
    missing = np.asarray(pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool)
    yield from _by_bins(part, column, missing) if _continuous(part, column) else _by_value(column, missing)
    if missing.any():
        yield "missing", missing


def _continuous(part: Slice, column: pa.Array) -> bool:
    number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    return bool(part.bins) or (number and pc.count_distinct(column).as_py() > MOST_NUMBERS)


def _by_value(column: pa.Array, missing: Mask) -> Iterator[tuple[str, Mask]]:
    encoded = column.filter(pa.array(~missing)).dictionary_encode()
    names = [_text(value) for value in encoded.dictionary.to_pylist()]
    codes = np.full(len(column), -1)
    codes[~missing] = encoded.indices.to_numpy()
    largest = np.argsort(-np.bincount(codes[~missing], minlength=len(names)), kind="stable")[:MOST_VALUES]
    for code in sorted(largest.tolist(), key=lambda place: names[place]):
        yield names[code], codes == code


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_bins(part: Slice, column: pa.Array, missing: Mask) -> Iterator[tuple[str, Mask]]:
    numbers = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    edges = part.bins or tuple(np.unique(np.quantile(numbers[~missing], [0.25, 0.5, 0.75])).tolist())
    index = np.searchsorted(edges, numbers, side="right")
    names = [f"below {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"from {edges[-1]:g}"]
    for place, name in enumerate(names):
        mask = (index == place) & ~missing
        if mask.any():
            yield name, mask
