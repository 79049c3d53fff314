"""One column as counts: of the champion's training rows, and of a window in the same bins.

A column is a *number* (bins between quantiles of the reference, plus one below its smallest and one above its largest
value) or a *category* (one bin a value, one for all others, one for null).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.monitoring import binning
from evermodel.monitoring.binning import (
    Ints,
    bin_counts,
    bin_edges,
    category_counts,
    finite,
    is_text,
    longest_run,
    numbers,
    texts,
)
from evermodel.monitoring.statistics import Floats
from evermodel.monitoring.validity import Declared, foreign_share, outside_share
from evermodel.records import Artifact

CATEGORIES = 50
STARTS_TO_VARY = 0.01  # share of rows that differ from the constant


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
    longest_run: int = 0  # rows in a row, in order of time, with one value
    outside: float = 0.0  # share of values beyond what the use case declares

    @property
    def valid(self) -> int:
        return sum(self.counts)


def number_reference(
    name: str, values: Floats, *, bins: int, fine: bool = False, outside: float = 0.0
) -> ColumnReference:
    """Of values[n], in order of time; nan and infinities are missing."""
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
    """Of text; the 50 most frequent values get a bin each."""
    encoded = array.dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))
    order = np.lexsort((np.asarray(encoded.dictionary.to_pylist(), dtype=object), -counts))[:CATEGORIES]
    categories = tuple(encoded.dictionary[int(index)].as_py() for index in order)
    return ColumnReference(
        column=name,
        kind="category",
        categories=categories,
        counts=tuple(category_counts(array, categories).tolist()),
        rows=len(array),
        null_share=array.null_count / max(len(array), 1),
        constant=len(encoded.dictionary) <= 1,
        longest_run=longest_run(codes),
        outside=outside,
    )


def column_reference(
    name: str,
    array: pa.ChunkedArray | pa.Array,
    *,
    bins: int,
    fine: bool = False,
    kind: Literal["number", "category"] | None = None,
    allowed: Declared = Declared(),
) -> ColumnReference:
    """Of one column, in order of time; `kind` None: a category where it holds text."""
    if kind == "category" or is_text(array):
        text = texts(array)
        return category_reference(name, text, outside=foreign_share(text, allowed))
    values = numbers(array)
    return number_reference(name, values, bins=bins, fine=fine, outside=outside_share(finite(values), allowed))


# a window -----------------------------------------------------------------------------------------------------------


def fits(reference: ColumnReference, array: pa.ChunkedArray) -> bool:
    """Whether the column's type can be compared with the reference: a number is no text."""
    return reference.kind == "category" or not is_text(array)


def column_counts(reference: ColumnReference, array: pa.ChunkedArray) -> Ints:
    """The window's rows in the reference's bins → int64[bins]."""
    if reference.kind == "category":
        return category_counts(texts(array), reference.categories)
    values = numbers(array)
    if not reference.edges:  # the reference held no value at all
        return np.array([len(finite(values))], dtype=np.int64)
    return bin_counts(values, np.asarray(reference.edges))


def bin_codes(reference: ColumnReference, array: pa.ChunkedArray) -> Ints:
    """Each row's bin → int64[n]; one more than the last bin where a number is missing."""
    if reference.kind == "category":
        found = pc.index_in(texts(array), value_set=pa.array(reference.categories, pa.string()))
        missing = np.asarray(pc.is_null(array).to_numpy(), dtype=np.bool_)
        codes = np.asarray(
            pc.fill_null(found, len(reference.categories)).to_numpy(zero_copy_only=False), dtype=np.int64
        )
        return np.where(missing, len(reference.categories) + 1, codes)
    values = numbers(array)
    codes = np.searchsorted(np.asarray(reference.edges), values, side="right").astype(np.int64)
    return np.where(np.isfinite(values), codes, len(reference.counts))


def varies(reference: ColumnReference, counts: Ints) -> bool:
    """A constant (or empty) column of the reference holds something else in 1 % of the window's rows."""
    if not reference.constant:
        return False
    total = int(counts.sum())
    if reference.kind == "category":
        changed = total - int(counts[0]) - int(counts[-1])
    else:
        changed = total if not reference.edges else total - int(counts[1])
    return changed > 0 and changed >= STARTS_TO_VARY * total
