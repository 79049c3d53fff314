"""Transforms: feature columns → a model's inputs, fitted on the training part and kept in the model's state.

The same code runs offline and online; `encoders` holds the encoder of each kind.

Terms. A *dense* input is a standardised number, z = (x − mean) / scale. An *id* input picks a row of an embedding. A
*constant* column has scale 0 and encodes as 0, until `update` sees it vary. `update` refits on the rows of a later
training round; its `TransformUpdate` says how the first layer must change for the model to remain the same function.

| encode | input | missing | later rounds |
|---|---|---|---|
| numeric | z | `fill`, a raw value that never changes; `indicator` adds a 0/1 column if the rows had nulls | mean and scale change |
| embed | id of a seen value; 0 = unknown | a value of its own, if the rows had nulls | the vocabulary grows |
| hash | bucket and sign of a stable hash (Weinberger et al. 2009) | id 0 | fixed |
| bins | quantile bin | id 0 | fixed |
| none | nothing: only crosses and custom features use it | | |
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.columns import Floats, Ints
from evermodel.errors import DataError, StateError, nearest
from evermodel.features.encoders import (
    BinEncoder,
    Hashing,
    IdEncoder,
    Numeric,
    Vocabulary,
    distinct,
    id_encoder,
    numbers,
    quantile_edges,
)
from evermodel.records import canonical_json
from evermodel.use_case import CrossFeature, Encoding, Feature, UseCase, feature_columns

# With a shift of more old standard deviations than this, or a greater ratio of scales, a column keeps its mean and scale:
# float32 weights could no longer express the same function to 1e-5, and quarantine deals with such a jump.
LARGEST_CHANGE = 100.0


@dataclass(frozen=True)
class InputSpec:
    """The inputs of a model: `dense[n, len(dense)]` and `ids[n, len(ids)]`.

    `ids` holds (name, buckets, embedding dim): ids are in [0, buckets). A column in `signed` has 0 for missing, 1..B for
    the buckets with sign + and B+1..2B for the same with sign −, so buckets = 2B + 1.
    """

    dense: tuple[str, ...]
    ids: tuple[tuple[str, int, int], ...]
    signed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Inputs:
    """Encoded rows: dense float32[n, d], ids int64[n, c]."""

    dense: NDArray[np.float32]
    ids: Ints


@dataclass(frozen=True)
class ColumnUpdate:
    """One dense column's standardisation, before and after. `scale_from` 0: it was constant, encoded as 0."""

    index: int
    name: str
    mean_from: float
    scale_from: float
    mean_to: float
    scale_to: float

    @property
    def was_constant(self) -> bool:
        return self.scale_from == 0


@dataclass(frozen=True)
class TransformUpdate:
    """How the model must change to stay the same function: rescale columns, add dense columns, and grow tables."""

    columns: tuple[ColumnUpdate, ...]
    dense_from: int
    dense_to: int
    tables: tuple[tuple[str, int, int], ...]  # (id column, rows before, rows after)

    @property
    def changes_shape(self) -> bool:
        return self.dense_from != self.dense_to or bool(self.tables)

    @property
    def is_identity(self) -> bool:
        return not self.columns and not self.changes_shape


@dataclass(frozen=True)
class Transforms:
    """One objective's fitted encoders. Dense inputs: the numeric columns, then an indicator of each in `indicators`."""

    numeric: tuple[Numeric, ...]
    indicators: tuple[str, ...]
    ids: tuple[IdEncoder, ...]

    @property
    def spec(self) -> InputSpec:
        return InputSpec(
            dense=(*(column.name for column in self.numeric), *(f"{name}:missing" for name in self.indicators)),
            ids=tuple((encoder.name, encoder.buckets, encoder.dim) for encoder in self.ids),
            signed=frozenset(encoder.name for encoder in self.ids if isinstance(encoder, Hashing)),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that `apply` reads."""
        return (*(column.name for column in self.numeric), *(encoder.name for encoder in self.ids))

    def apply(self, rows: pa.Table) -> Inputs:
        """Encodes rows. DataError if a column is missing or holds values that its encoding can't take."""
        raw = {column.name: numbers(column.name, _column(rows, column.name)) for column in self.numeric}
        dense = np.zeros((len(rows), len(self.numeric) + len(self.indicators)), dtype=np.float32)
        for index, column in enumerate(self.numeric):
            dense[:, index] = column.encode(raw[column.name])
        for index, name in enumerate(self.indicators, start=len(self.numeric)):
            dense[:, index] = ~np.isfinite(raw[name])
        ids = np.zeros((len(rows), len(self.ids)), dtype=np.int64)
        for index, encoder in enumerate(self.ids):
            ids[:, index] = encoder.encode(_column(rows, encoder.name))
        return Inputs(dense, ids)

    def update(self, rows: pa.Table, *, restandardise: bool = True) -> tuple[Transforms, TransformUpdate]:
        """Refits on the rows of a later round, as far as the model can remain the same function, and says how it must change.

        A column that is constant in `rows` keeps its mean and scale. Without `restandardise` only columns that were
        constant and now vary get new ones (the model can't learn from them otherwise).
        """
        columns, changes, indicators = [], [], list(self.indicators)
        for index, old in enumerate(self.numeric):
            values = numbers(old.name, _column(rows, old.name))
            mean, scale = _standard(values)
            new = replace(old, mean=mean, scale=scale)
            if _may_change(old, new, restandardise=restandardise):
                columns.append(new)
                changes.append(ColumnUpdate(index, old.name, old.mean, old.scale, mean, scale))
            else:
                columns.append(old)
            if old.missing == "indicator" and old.name not in indicators and not np.isfinite(values).all():
                indicators.append(old.name)
        ids = tuple(
            encoder.grow(_column(rows, encoder.name)) if isinstance(encoder, Vocabulary) else encoder
            for encoder in self.ids
        )
        updated = Transforms(tuple(columns), tuple(indicators), ids)
        tables = tuple(
            (old.name, old.buckets, new.buckets)
            for old, new in zip(self.ids, ids, strict=True)
            if old.buckets != new.buckets
        )
        return updated, TransformUpdate(tuple(changes), len(self.spec.dense), len(updated.spec.dense), tables)

    def to_json(self) -> str:
        """Canonical JSON; floats come back exactly."""
        return canonical_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            "numeric": [asdict(column) for column in self.numeric],
            "indicators": list(self.indicators),
            "ids": [{"kind": encoder.kind, **asdict(encoder)} for encoder in self.ids],
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> Transforms:
        """The inverse of `to_json`. StateError if the text can't be read."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Transforms:
        try:
            numeric = tuple(Numeric(**column) for column in tree["numeric"])
            ids = tuple(id_encoder(dict(encoder)) for encoder in tree["ids"])
            return cls(numeric, tuple(tree["indicators"]), ids)
        except (KeyError, TypeError) as error:
            raise StateError(f"transforms can't be restored: {error!r}") from None


def fit(use_case: UseCase, objective: str, rows: pa.Table) -> Transforms:
    """Fits an objective's encoders on `rows`, which are the training part alone.

    DataError if there are no rows, a feature's column is missing, or a text is to be encoded as a number.
    """
    if not len(rows):
        raise DataError(f"objective {objective!r}: transforms can't be fitted on zero rows")
    numeric: list[Numeric] = []
    indicators: list[str] = []
    ids: list[IdEncoder] = []
    for feature in features_of(use_case, objective):
        for name in feature_columns(feature):
            column = _column(rows, name)
            if (encoding := encoding_of(feature)) == "numeric":
                values = numbers(name, column)
                numeric.append(_fit_numeric(name, feature, values))
                if feature.missing == "indicator" and not np.isfinite(values).all():
                    indicators.append(name)
            elif encoding == "embed":
                ids.append(Vocabulary(name, feature.dim, distinct(column)))
            elif encoding == "hash":
                ids.append(Hashing(name, feature.dim, feature.buckets))
            elif encoding == "bins":
                ids.append(BinEncoder(name, feature.dim, quantile_edges(numbers(name, column), feature.bins)))
    if not numeric and not ids:
        raise DataError(f"objective {objective!r} has no feature to learn from: every feature is encode: none")
    return Transforms(tuple(numeric), tuple(indicators), tuple(ids))


def features_of(use_case: UseCase, objective: str) -> tuple[Feature, ...]:
    """The features that an objective's model sees, in the file's order."""
    return tuple(item for item in use_case.features if item.objectives is None or objective in item.objectives)


def encoding_of(feature: Feature) -> Encoding:
    """The feature's encoding; a cross is a category, so by default (numeric) it is hashed."""
    return "hash" if isinstance(feature, CrossFeature) and feature.encode == "numeric" else feature.encode


def _fit_numeric(name: str, feature: Feature, values: Floats) -> Numeric:
    mean, scale = _standard(values)
    return Numeric(name, mean, scale, 0.0 if feature.missing == "zero" else mean, feature.missing)


def _standard(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the present values; scale 0 if they don't vary."""
    present = values[np.isfinite(values)]
    if not len(present):
        return 0.0, 0.0
    low, high = float(present.min()), float(present.max())
    mean, scale = float(present.mean()), float(present.std())
    if low == high or scale <= 1e-9 * max(abs(low), abs(high)):  # rounding alone gives such a deviation
        return low, 0.0
    return mean, scale


def _may_change(old: Numeric, new: Numeric, *, restandardise: bool) -> bool:
    if new.scale == 0:
        return False
    if old.scale == 0:
        return True
    if not restandardise or (old.mean, old.scale) == (new.mean, new.scale):
        return False
    ratio, shift = new.scale / old.scale, abs(new.mean - old.mean) / old.scale
    return 1 / LARGEST_CHANGE <= ratio <= LARGEST_CHANGE and shift <= LARGEST_CHANGE


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    index = rows.schema.get_field_index(name)
    if index < 0:
        raise DataError(
            f"rows have no column {name!r} for the feature of that name; {nearest(name, rows.column_names)}"
        )
    return rows.column(index)
