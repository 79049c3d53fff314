"""The inputs of the models: the kinds of features, selected by `kind`, and the columns that each of them makes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field as Setting

from evermodel.use_case.types import Duration, Name, Section, format_duration

Encoding = Literal["numeric", "embed", "hash", "bins", "none"]


class _Feature(Section):
    name: Name
    encode: Encoding = "numeric"
    missing: Literal["mean", "zero", "indicator"] = Setting(
        "indicator", description="indicator: the mean, and a column that marks it if the training rows had nulls"
    )
    buckets: int = Setting(64, ge=2, description="of a hash or an embedding")
    dim: int = Setting(8, ge=1, description="of an embedding")
    bins: int = Setting(16, ge=2, description="quantile bins of the training rows")
    valid_min: float | None = None
    valid_max: float | None = None
    objectives: tuple[str, ...] | None = Setting(None, description="absent: all")


class ColumnFeature(_Feature):
    """A column of the row to predict, known at the time of the request."""

    kind: Literal["column"] = "column"
    field: str | None = Setting(None, description="absent: the feature's name")
    serve_as: float | int | str | None = Setting(
        None,
        description="the value that serving always uses, such as position 1: the position bias is learned but not applied",
    )


class CalendarFeature(_Feature):
    """A part of the event time, UTC."""

    kind: Literal["calendar"]
    part: Literal["hour", "minute_of_day", "weekday", "day_of_month", "month", "weekend", "night", "day_of_year"]


class WindowFeature(_Feature):
    """An aggregate of an entity's earlier events in [t − delay − span, t − delay), one feature for each span.

    Named `{name}_{span}`. `rate` is the mean of a 0/1 field. If the field belongs to a label, use a delay no shorter than
    the label's. `last` and `distinct` take any type; `sum`, `mean` and `rate` take numbers.
    """

    kind: Literal["window"]
    source: str
    entity: str
    aggregate: Literal["count", "sum", "mean", "last", "distinct", "rate"]
    field: str | None = None
    spans: tuple[Duration, ...] = Setting(min_length=1)
    delay: Duration = 0
    where: dict[str, str | int | float | bool] = Setting({})


class LagFeature(_Feature):
    """The field's value in the entity's `steps`-th event before this one."""

    kind: Literal["lag"]
    source: str
    entity: str
    field: str
    steps: int = Setting(1, ge=1)
    delay: Duration = 0


class CrossFeature(_Feature):
    """Two or more categories combined into one."""

    kind: Literal["cross"]
    of: tuple[str, ...] = Setting(min_length=2)


class CustomFeature(_Feature):
    """A pure function of other columns of the row, by import path."""

    kind: Literal["custom"]
    transform: str
    of: tuple[str, ...] = Setting(min_length=1)


Feature = Annotated[
    ColumnFeature | CalendarFeature | WindowFeature | LagFeature | CrossFeature | CustomFeature,
    Setting(discriminator="kind"),
]


FEATURE_KINDS = ("column", "calendar", "window", "lag", "cross", "custom")


def feature_columns(feature: Feature) -> tuple[str, ...]:
    """`("amount_sum_1d", "amount_sum_7d")` for a window feature of two spans; the name of any other feature."""
    if isinstance(feature, WindowFeature):
        return tuple(f"{feature.name}_{format_duration(span)}" for span in feature.spans)
    return (feature.name,)
