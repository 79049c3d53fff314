"""One column as counts: of the champion's training rows, and of a window, in the same bins.

A column is a *number* (bins between quantiles of the reference, plus one below its smallest and one above its largest
value) or a *category* (one bin a value, one for all others, one for null).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from evermodel.columns import codes, codes_in, floats, is_text, texts
from evermodel.monitoring import binning
from evermodel.monitoring.binning import (
    Ints,
    bin_counts,
    bin_edges,
    category_counts,
    finite,
    longest_run,
)
from evermodel.monitoring.statistics import Floats
from evermodel.monitoring.validity import DeclaredValues, foreign_share, outside_share
from evermodel.records import Artifact

CATEGORIES = 50
STARTS_TO_VARY = 0.01  # at least this share of the rows differs from the constant


class ColumnReference(Artifact):
    """One column of the champion's training rows, as counts."""

    column: str
    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()  # bin i of a number is [edges[i − 1], edges[i])
    categories: tuple[str, ...] = ()
    counts: tuple[int, ...]
    rows: int
    null_share: float
    constant: bool
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    magnitude: float | None = None  # median of |x|
    longest_run: int = 0  # consecutive rows, in order of time, with one value
    outside: float = 0.0  # share of values outside the declared bounds or values

    @property
    def valid(self) -> int:
        return sum(self.counts)


def number_reference(
    name: str, values: Floats, *, bins: int, fine: bool = False, outside: float = 0.0
) -> ColumnReference:
    """The reference of values[n], in order of time; nan and infinities are missing."""
    kept = finite(values)
    if len(kept) == 0:
        return ColumnReference(
            column=name, kind="number", counts=(0,), rows=len(values), null_share=float(len(values) > 0), constant=True
        )
    edges = bin_edges(kept, bins=bins, fine=fine)
    sample = kept[:: max(1, len(kept) // binning.SAMPLE)]
    return ColumnReference(
        column=name,
        kind="number",
        edges=tuple(edges.tolist()),
        counts=tuple(bin_counts(kept, edges).tolist()),
        rows=len(values),
        null_share=1 - len(kept) / len(values),
        constant=edges[0] == np.nextafter(edges[-1], -np.inf),
        minimum=float(edges[0]),
        maximum=float(np.nextafter(edges[-1], -np.inf)),
        mean=float(kept.mean()),
        deviation=float(kept.std()),
        magnitude=float(np.median(np.abs(sample))),
        longest_run=longest_run(values),
        outside=outside,
    )


def category_reference(name: str, array: pa.Array, *, outside: float = 0.0) -> ColumnReference:
    """The reference of a text column; each of the 50 most frequent values gets a bin."""
    row_codes, distinct = codes(array)
    counts = np.bincount(row_codes[row_codes >= 0], minlength=len(distinct))
    order = np.lexsort((np.asarray(distinct.to_pylist(), dtype=object), -counts))[:CATEGORIES]
    categories = tuple(distinct[int(index)].as_py() for index in order)
    return ColumnReference(
        column=name,
        kind="category",
        categories=categories,
        counts=tuple(category_counts(array, categories).tolist()),
        rows=len(array),
        null_share=array.null_count / max(len(array), 1),
        constant=len(distinct) <= 1,
        longest_run=longest_run(row_codes),
        outside=outside,
    )


def column_reference(
    name: str,
    array: pa.ChunkedArray | pa.Array,
    *,
    bins: int,
    fine: bool = False,
    kind: Literal["number", "category"] | None = None,
    allowed: DeclaredValues = DeclaredValues(),
) -> ColumnReference:
    """The reference of one column, in order of time. If `kind` is None, text is a category."""
    if kind == "category" or is_text(array.type):
        text = texts(array)
        return category_reference(name, text, outside=foreign_share(text, allowed))
    values = floats(array)
    return number_reference(name, values, bins=bins, fine=fine, outside=outside_share(finite(values), allowed))


# a window -----------------------------------------------------------------------------------------------------------


def fits(reference: ColumnReference, array: pa.ChunkedArray) -> bool:
    """Whether the column's type fits the reference: text isn't compared with numbers."""
    return reference.kind == "category" or not is_text(array.type)


def column_counts(reference: ColumnReference, array: pa.ChunkedArray) -> Ints:
    """The window's rows in the reference's bins → int64[bins]."""
    if reference.kind == "category":
        return category_counts(texts(array), reference.categories)
    values = floats(array)
    if not reference.edges:  # the reference has no value at all
        return np.array([len(finite(values))], dtype=np.int64)
    return bin_counts(values, np.asarray(reference.edges))


def bin_codes(reference: ColumnReference, array: pa.ChunkedArray) -> Ints:
    """Each row's bin → int64[n]; a missing number gets one more than the last bin."""
    if reference.kind == "category":
        size = len(reference.categories)
        return codes_in(array, reference.categories, other=size, null=size + 1)
    values = floats(array)
    bins = np.searchsorted(np.asarray(reference.edges), values, side="right").astype(np.int64)
    return np.where(np.isfinite(values), bins, len(reference.counts))


def varies(reference: ColumnReference, counts: Ints) -> bool:
    """Whether a constant (or empty) column of the reference has another value in 1 % of the window's rows."""
    if not reference.constant:
        return False
    total = int(counts.sum())
    if reference.kind == "category":
        changed = total - int(counts[0]) - int(counts[-1])
    else:
        changed = total if not reference.edges else total - int(counts[1])
    return changed > 0 and changed >= STARTS_TO_VARY * total
