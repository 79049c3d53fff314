"""Entities, sources, the prediction task and labels.

A *source* yields events: rows with entity keys, an event time and a creation time. Each row of the *prediction source*
gets one prediction. A *label* is an outcome of such a row, known after a delay.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field as Setting
from pydantic import model_validator

from evermodel.records import Time
from evermodel.use_case.types import Duration, Name, Section


class Entity(Section):
    """A thing that events are about. `key` is the column that identifies it."""

    name: Name
    key: Name
    type: Literal["string", "int"] = "string"
    description: str = ""


class Field(Section):
    """A column of a source, and its allowed values: a row with another value is rejected with the reason."""

    name: Name
    type: Literal["float", "int", "string", "bool", "timestamp"] = "float"
    unit: str | None = None
    min: float | None = None
    max: float | None = None
    nullable: bool = False
    values: tuple[str, ...] | None = None
    resolution: float = Setting(2.0**-20, gt=0, description="window sums are exact multiples of this")
    column: str | None = Setting(None, description="its name in the raw source, if it differs")
    description: str = ""


class RowNumber(Section):
    """Row i of the source happens at start + i × step."""

    start: Time
    step: Duration


class Clock(Section):
    """The origin of an event's time: a column, or the row's number if a history has no times."""

    field: str | None = None
    row_number: RowNumber | None = None
    format: str | None = Setting(None, description="strptime format of a text column; naive times are UTC")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.field is None) == (self.row_number is None):
            raise ValueError("give either field or row_number")
        return self


class Source(Section):
    """Events of one kind. `path` is relative to the data directory and may hold `*`."""

    name: Name
    reader: str = Setting(description="csv, tsv, parquet, sessions, simulator, or an import path")
    path: str | None = None
    provenance: str = Setting("", description="the origin of the data, and its licence")
    event_time: Clock
    created_time: Clock | None = Setting(None, description="absent: the event time")
    constants: dict[str, str | int | float] = Setting({})
    fields: tuple[Field, ...] = Setting(min_length=1)
    unique: tuple[str, ...] = Setting((), description="columns that identify a row; a repeat is a duplicate")
    lateness: Duration = Setting(
        0, description="an event counts as late if it is created more than this after its event time"
    )
    options: dict[str, Any] = Setting({})

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)


class PredictionTask(Section):
    """The source whose rows get a prediction."""

    source: str
    group: str | None = Setting(None, description="rows of one request, ranked together")
    item: str | None = Setting(None, description="the column of the ranked item")
    position: str | None = None
    catalogue: str | None = Setting(None, description="a source: all of its items are ranked for each row")


class Label(Section):
    """An outcome of a row of the prediction source.

    `column`: a column of that row, known `delay` after it. `event`: whether (or, with `value`, how much of) an event
    of `source` with the same `match` columns follows within `delay`; none by then: negative, 0. A null label is
    unknown, never a class.
    """

    name: Name
    kind: Literal["column", "event"]
    type: Literal["binary", "number", "category"] = "binary"
    delay: Duration
    field: str | None = None
    positive: str | int | float | bool | None = Setting(None, description="the value of `field` that is 1")
    source: str | None = None
    match: tuple[str, ...] = ()
    value: str | None = None
