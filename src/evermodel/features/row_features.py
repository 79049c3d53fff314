"""Features that need only the row itself: columns, calendar parts, crosses and custom features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import plugins
from evermodel.columns import Column, Floats, Ints, ints, plain_values
from evermodel.errors import DataError, InputError
from evermodel.features.window_groups import window_groups
from evermodel.use_case import (
    CalendarFeature,
    ColumnFeature,
    CrossFeature,
    CustomFeature,
    UseCase,
    WindowFeature,
    of_use_case,
)

DAY: Final = 86_400_000_000
MINUTE: Final = 60_000_000


def row_features(use_case: UseCase, table: pa.Table, *, only: Collection[str] | None = None) -> pa.Table:
    """Adds the features that need only the row itself: columns, calendar parts, crosses, custom features.

    `table` has `event_time`, the prediction source's fields, and the window and lag columns. Crosses and custom
    features may use each other; InputError if they form a circle. `only` names the features to compute again; the
    table then has the others already.
    """
    columns = {name: table.column(name) for name in table.column_names}
    for feature in features_of_row(use_case):
        if only is None or feature.name in only:
            columns[feature.name] = _row_feature(feature, columns, table)
    every = dict.fromkeys(use_case.feature_columns())
    return pa.table({name: columns[name] for name in (*(name for name in columns if name not in every), *every)})


@of_use_case
def features_of_row(use_case: UseCase) -> tuple[Any, ...]:
    """The features that need only the row itself, each after the features that it uses."""
    made = {name for group in window_groups(use_case) for name in (measure.column for measure in group.measures)}
    waiting = [
        feature for feature in use_case.features if feature.name not in made and not isinstance(feature, WindowFeature)
    ]
    order: list[Any] = []
    while waiting:
        ready = [f for f in waiting if not isinstance(f, (CrossFeature, CustomFeature)) or made.issuperset(f.of)]
        if not ready:
            names = ", ".join(feature.name for feature in waiting)
            raise InputError(f"features {names} use each other: a circle")
        made.update(feature.name for feature in ready)
        order += ready
        waiting = [feature for feature in waiting if feature.name not in made]
    return tuple(order)


def _row_feature(feature: Any, columns: Mapping[str, Column], fields: pa.Table) -> Column:
    if isinstance(feature, ColumnFeature):
        return fields.column(feature.field or feature.name)
    if isinstance(feature, CalendarFeature):
        return pa.array(calendar(feature.part, ints(fields.column("event_time"))))
    if isinstance(feature, CrossFeature):
        return pc.binary_join_element_wise(*(columns[name].cast(pa.string()) for name in feature.of), "|")
    return _custom(feature, columns, fields.num_rows)


def _custom(feature: CustomFeature, columns: Mapping[str, Column], rows: int) -> pa.Array:
    given = {name: plain_values(columns[name]) for name in feature.of}
    values = np.asarray(plugins.load(feature.transform, "transform")(given))
    if values.shape != (rows,):
        raise DataError(f"transform {feature.transform} returned shape {values.shape} for {rows} rows")
    values = values.astype(np.float64)
    return pa.array(values, mask=np.isnan(values))


def calendar(part: str, time: Ints) -> Floats:
    """A part of UTC times: float64[n]. weekday: Monday is 0. night: hour ≤ 6, as in the Fraud Detection Handbook."""
    days = time // DAY
    dates = days.astype("datetime64[D]")
    value: NDArray[Any]
    match part:
        case "hour":
            value = time // (60 * MINUTE) % 24
        case "minute_of_day":
            value = time // MINUTE % 1440
        case "weekday":
            value = (days + 3) % 7  # 1970-01-01 was a Thursday
        case "weekend":
            value = (days + 3) % 7 >= 5
        case "night":
            value = time // (60 * MINUTE) % 24 <= 6
        case "day_of_month":
            value = (dates - dates.astype("datetime64[M]")).astype(np.int64) + 1
        case "month":
            value = dates.astype("datetime64[M]").astype(np.int64) % 12 + 1
        case "day_of_year":
            value = (dates - dates.astype("datetime64[Y]")).astype(np.int64) + 1
        case _:
            raise InputError(f"no calendar part {part!r}")
    return np.asarray(value, np.float64)
