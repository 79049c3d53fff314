"""Rows as serving sees them: what `serve_as` fixes, and every feature that is made of it.

A position is learned from, and never answered by: serving says the same position of every row. Whoever scores rows to
judge a model scores them in this form, or judges another function than the one that answers.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from evermodel.features.row_features import features_of_row, row_features
from evermodel.use_case import ColumnFeature, CrossFeature, CustomFeature, UseCase, of_use_case


@of_use_case
def served_constants(use_case: UseCase) -> dict[str, Any]:
    """Source field → the value that serving fixes (`serve_as`)."""
    return {
        feature.field or feature.name: feature.serve_as
        for feature in use_case.features
        if isinstance(feature, ColumnFeature) and feature.serve_as is not None
    }


def as_served(use_case: UseCase, rows: pa.Table) -> pa.Table:
    """The feature rows with every fixed field set, and the columns, crosses and custom features of it computed anew."""
    constants = served_constants(use_case)
    if not constants:
        return rows
    for name, value in constants.items():
        place = rows.schema.get_field_index(name)
        if place >= 0:
            fixed = pa.array([value] * rows.num_rows).cast(rows.schema.field(place).type)
            rows = rows.set_column(place, name, fixed)
    return row_features(use_case, rows, only=dependent_features(use_case)).select(rows.column_names)


@of_use_case
def dependent_features(use_case: UseCase) -> frozenset[str]:
    """The names of the features that a fixed field changes, directly or through other features."""
    constants = served_constants(use_case)
    found: set[str] = set()
    for feature in features_of_row(use_case):
        if isinstance(feature, ColumnFeature):
            depends = (feature.field or feature.name) in constants
        else:
            depends = isinstance(feature, CrossFeature | CustomFeature) and not found.isdisjoint(feature.of)
        if depends:
            found.add(feature.name)
    return frozenset(found)
