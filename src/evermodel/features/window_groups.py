"""The window and lag features of a use case, grouped by the events and the sort that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from evermodel.features.measures import Measure
from evermodel.use_case import LagFeature, UseCase, WindowFeature, feature_columns, of_use_case

TIMES: Final = ("event_time", "created_time", "ingest_seq")


@dataclass(frozen=True, kw_only=True)
class WindowGroup:
    """The measures that share one source, entity and filter: one sort in bulk, one state per entity online.

    `inputs` maps a measure's field to (the source's column, the value that counts as 1 in a label's rate, else None).
    """

    source: str
    entity: str
    key: str  # the entity's column, in the source and in the rows
    where: tuple[tuple[str, str | int | float | bool], ...]
    same_source: bool  # the rows are events of this source themselves
    measures: tuple[Measure, ...]
    inputs: Mapping[str, tuple[str, Any]]
    resolutions: Mapping[str, float]

    @property
    def name(self) -> str:
        """`source.entity`, and the filter if there is one: unique within a use case."""
        return ".".join([self.source, self.entity, *(f"{field}={value}" for field, value in self.where)])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read of the source."""
        inputs = (column for column, _ in self.inputs.values())
        return tuple(dict.fromkeys([self.key, *inputs, *(field for field, _ in self.where), *TIMES]))

    @property
    def reach(self) -> int | None:
        """How far back a row sees, in microseconds; None if it sees all events (a lag)."""
        if any(measure.aggregate == "lag" for measure in self.measures):
            return None
        return max(measure.delay + measure.span for measure in self.measures)


@of_use_case
def window_groups(use_case: UseCase) -> tuple[WindowGroup, ...]:
    """Every window and lag feature of the use case, in groups, in order of first mention."""
    groups: dict[tuple[Any, ...], WindowGroup] = {}
    for feature in use_case.features:
        if not isinstance(feature, (WindowFeature, LagFeature)):
            continue
        where = tuple(sorted(feature.where.items())) if isinstance(feature, WindowFeature) else ()
        group = groups.get((feature.source, feature.entity, where)) or WindowGroup(
            source=feature.source,
            entity=feature.entity,
            key=use_case.entity(feature.entity).key,
            where=where,
            same_source=feature.source == use_case.predict.source,
            measures=(),
            inputs={},
            resolutions={},
        )
        name, column, positive = _input(use_case, feature)
        inputs = group.inputs if name is None else {**group.inputs, name: (column, positive)}
        groups[feature.source, feature.entity, where] = replace(
            group,
            measures=(*group.measures, *_measures(feature, name)),
            inputs=inputs,
            resolutions={name: _resolution(use_case, feature.source, column) for name, (column, _) in inputs.items()},
        )
    return tuple(groups.values())


def _measures(feature: WindowFeature | LagFeature, name: str | None) -> list[Measure]:
    if isinstance(feature, LagFeature):
        return [Measure(column=feature.name, aggregate="lag", field=name, delay=feature.delay, steps=feature.steps)]
    columns = feature_columns(feature)
    return [
        Measure(column=column, aggregate=feature.aggregate, field=name, span=span, delay=feature.delay)
        for column, span in zip(columns, feature.spans, strict=True)
    ]


def _input(use_case: UseCase, feature: WindowFeature | LagFeature) -> tuple[str | None, str, Any]:
    """The measure's field, the source's column, and the value that counts as 1 if it is the rate of a label's field."""
    if feature.field is None or (isinstance(feature, WindowFeature) and feature.aggregate == "count"):
        return None, "", None
    if isinstance(feature, WindowFeature) and feature.aggregate == "rate" and feature.source == use_case.predict.source:
        for label in use_case.labels:
            if label.kind == "column" and label.positive is not None and (label.field or label.name) == feature.field:
                return f"{feature.field}={label.positive}", feature.field, label.positive
    return feature.field, feature.field, None


def _resolution(use_case: UseCase, source: str, column: str) -> float:
    return next((field.resolution for field in use_case.source(source).fields if field.name == column), 2.0**-20)
