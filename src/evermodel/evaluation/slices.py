"""Slices: the metric on parts of the rows that have a minimum support.

In a ranking, the rows of a part are ranked among themselves. So slice lists by a column that is equal within a list.
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

from evermodel.columns import as_array, codes, floats, valid_mask
from evermodel.evaluation.metrics import figure
from evermodel.evaluation.samples import Sample
from evermodel.records import SliceScore
from evermodel.use_case import Slice, UseCase

Mask = NDArray[np.bool_]
MOST_VALUES: Final = 50  # only the largest parts of a slice are kept
MOST_NUMBERS: Final = 20  # a number without bins and with more distinct values is cut at its quartiles


@dataclass(frozen=True)
class SliceResult:
    """One part of one slice; a metric is None below the minimum support, or if it is undefined."""

    slice: Slice
    value: str
    rows: int
    challenger: float | None
    champion: float | None

    def to_record(self) -> SliceScore:
        return SliceScore(
            slice=self.slice.field, value=self.value, rows=self.rows, metric=self.challenger, champion=self.champion
        )


def measure(
    use_case: UseCase, rows: pa.Table, challenger: Sample, champion: Sample | None, *, metric: str
) -> tuple[SliceResult, ...]:
    """`metric` on each part of each slice. The samples hold all of `rows`, in the same order."""
    settings = use_case.evaluation

    def part_metric(sample: Sample | None, mask: Mask, enough: bool) -> float | None:
        if sample is None or not enough:
            return None
        return figure(metric, sample.take(mask), k=settings.k, threshold=settings.threshold)

    found = []
    for part in use_case.slices:
        for value, mask in parts(part, rows):
            support = int(mask.sum())
            enough = support >= part.minimum_rows
            ours, theirs = part_metric(challenger, mask, enough), part_metric(champion, mask, enough)
            found.append(SliceResult(part, value, support, ours, theirs))
    return tuple(found)


def parts(part: Slice, rows: pa.Table) -> Iterator[tuple[str, Mask]]:
    """(name, bool[n]) of each part that holds rows; nulls are a part named `missing`."""
    if rows.num_rows == 0:
        return
    column = as_array(rows[part.field])
    missing = ~valid_mask(column, nan_is_null=True)
    yield from _by_bins(part, column, missing) if _is_continuous(part, column) else _by_value(column)
    if missing.any():
        yield "missing", missing


def _is_continuous(part: Slice, column: pa.Array) -> bool:
    number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    return bool(part.bins) or (number and pc.count_distinct(column).as_py() > MOST_NUMBERS)


def _by_value(column: pa.Array) -> Iterator[tuple[str, Mask]]:
    row_codes, values = codes(column)
    if pa.types.is_timestamp(column.type):
        values = values.cast(column.type)
    names = [_text(value) for value in values.to_pylist()]
    largest = np.argsort(-np.bincount(row_codes[row_codes >= 0], minlength=len(names)), kind="stable")[:MOST_VALUES]
    for code in sorted(largest.tolist(), key=lambda place: names[place]):
        yield names[code], row_codes == code


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_bins(part: Slice, column: pa.Array, missing: Mask) -> Iterator[tuple[str, Mask]]:
    numbers = floats(column)
    edges = part.bins or tuple(np.unique(np.quantile(numbers[~missing], [0.25, 0.5, 0.75])).tolist())
    index = np.searchsorted(edges, numbers, side="right")
    names = [f"below {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f"from {edges[-1]:g}"]
    for place, name in enumerate(names):
        mask = (index == place) & ~missing
        if mask.any():
            yield name, mask
