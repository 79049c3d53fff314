"""What was known at a row's time: window features for many rows at once, as-of joins, and features of the row itself.

The pure part of training sets: Arrow tables in, Arrow table out, no storage and no clock. An *event table* holds a
source's fields and constants, `event_time`, `created_time` and `ingest_seq`. Serving and materialisation use the same
definitions: `window_groups` and `incremental_events` feed the online store, `row_features` finishes a request's row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import plugins
from evermodel.data.tables import cell
from evermodel.errors import DataError, InputError, nearest
from evermodel.features.columns import as_number, codes_of, entity_codes, flags, floats, is_text, micros_of
from evermodel.features.measures import ADDED, EventArrays, FieldArrays, Floats, Measure, TargetRows
from evermodel.features.timeline import Ints, Timeline, visible_before
from evermodel.features.windows import bulk
from evermodel.records import Window
from evermodel.use_case import (
    CalendarFeature,
    ColumnFeature,
    CrossFeature,
    CustomFeature,
    LagFeature,
    UseCase,
    WindowFeature,
    feature_columns,
    of_use_case,
)

__all__ = [
    "WindowGroup",
    "asof_join",
    "calendar",
    "feature_rows",
    "floats",
    "incremental_events",
    "row_features",
    "spine_of",
    "window_columns",
    "window_groups",
]

TIMES = ("event_time", "created_time", "ingest_seq")
DAY = 86_400_000_000
MINUTE = 60_000_000
Column: TypeAlias = "pa.ChunkedArray | pa.Array"

# definitions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WindowGroup:
    """The measures that share one source, entity and filter: one sort in bulk, one state an entity online.

    `inputs` maps a measure's field to the source's column, and to the value that is 1 where a label's is counted.
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
        """`source.entity`, and the filter where there is one: unique within a use case."""
        return ".".join([self.source, self.entity, *(f"{field}={value}" for field, value in self.where)])

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read of the source."""
        inputs = (column for column, _ in self.inputs.values())
        return tuple(dict.fromkeys([self.key, *inputs, *(field for field, _ in self.where), *TIMES]))

    @property
    def reach(self) -> int | None:
        """How far back a row sees, in microseconds; None: to the beginning (a lag)."""
        if any(measure.aggregate == "lag" for measure in self.measures):
            return None
        return max(measure.delay + measure.span for measure in self.measures)


@of_use_case
def window_groups(use_case: UseCase) -> tuple[WindowGroup, ...]:
    """Every window and lag feature of the use case, grouped by what they can share, in order of first mention."""
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
    """The measure's field, the source's column, and for the rate of a label's field the value that counts as 1."""
    if feature.field is None or (isinstance(feature, WindowFeature) and feature.aggregate == "count"):
        return None, "", None
    if isinstance(feature, WindowFeature) and feature.aggregate == "rate" and feature.source == use_case.predict.source:
        for label in use_case.labels:
            if label.kind == "column" and label.positive is not None and (label.field or label.name) == feature.field:
                return f"{feature.field}={label.positive}", feature.field, label.positive
    return feature.field, feature.field, None


def _resolution(use_case: UseCase, source: str, column: str) -> float:
    return next((field.resolution for field in use_case.source(source).fields if field.name == column), 2.0**-20)


# windows ------------------------------------------------------------------------------------------------------------


def _filtered(group: WindowGroup, events: pa.Table) -> pa.Table:
    """The events that the group counts: those with a key that pass `where`."""
    keep = events.column(group.key).is_valid()
    for name, value in group.where:
        column = events.column(name)
        wanted = cell(value, column.type, f"{group.name}'s {name}")
        keep = pc.and_(keep, pc.fill_null(pc.equal(column, wanted), False))
    return events if pc.all(keep, min_count=0).as_py() else events.filter(keep)


def _column(group: WindowGroup, name: str, events: pa.Table) -> pa.ChunkedArray:
    column, positive = group.inputs[name]
    values = events.column(column)
    if positive is None:
        return as_number(values)
    return as_number(pc.equal(values, cell(positive, values.type, f"{group.name}'s {column}")))


def incremental_events(group: WindowGroup, events: pa.Table) -> EventArrays:
    """The group's events as `Incremental.update` takes them: keys and values as they are."""
    events = _filtered(group, events)
    fields = {}
    for name in group.inputs:
        column = _column(group, name, events)
        fields[name] = FieldArrays(valid=flags(column), values=column.to_numpy(), resolution=group.resolutions[name])
    return _events(events, np.asarray(events.column(group.key).to_pylist(), object), fields)


def _events(table: pa.Table, entity: NDArray[Any], fields: Mapping[str, FieldArrays]) -> EventArrays:
    time, created, seq = (micros_of(table.column(name)) for name in ("event_time", "created_time", "ingest_seq"))
    return EventArrays(entity=entity, time=time, seq=seq, created=created, fields=fields)


def window_columns(group: WindowGroup, events: pa.Table, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The group's feature columns for every row (any order; `rows` has the key, event_time and ingest_seq)."""
    events = _filtered(group, events)
    own, asked = entity_codes([events.column(group.key)], [rows.column(group.key)])
    needs = {measure.aggregate for measure in group.measures}
    columns = {name: _column(group, name, events) for name in group.inputs}
    fields = {}
    for name, column in columns.items():
        text = is_text(column.type)
        fields[name] = FieldArrays(
            valid=flags(column),
            values=None if text or not needs & ADDED else column.to_numpy(),
            codes=_kinds(column) if "distinct" in needs else None,
            resolution=group.resolutions[name],
        )
    seq = micros_of(rows.column("ingest_seq")) if group.same_source else None
    targets = TargetRows(entity=asked, time=micros_of(rows.column("event_time")), seq=seq)
    found = bulk(_events(events, own, fields), targets, group.measures)
    return {measure.column: _arrow(measure, found[measure.column], columns) for measure in group.measures}


def _kinds(column: pa.ChunkedArray) -> Ints:
    if not is_text(column.type):
        column = pc.add(column, 0.0)  # −0.0 and 0.0 are one value
    return codes_of(column, pa.chunked_array([], column.type))[0]


def _arrow(measure: Measure, values: NDArray[Any], columns: Mapping[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    if measure.aggregate in ("last", "lag") and measure.field is not None:
        return columns[measure.field].take(pa.array(values, mask=values < 0))
    return pa.chunked_array([pa.array(values, mask=np.isnan(values))])


# as-of join ---------------------------------------------------------------------------------------------------------


def asof_join(targets: pa.Table, history: pa.Table, *, by: Sequence[str], ttl: int | None) -> pa.Table:
    """To each target the newest row of `history` with the same `by` columns that was known at the target's event time.

    Known: `event_time` ≤ the target's, and `created_time` ≤ it too, where history has that column. Of several at one
    event time the highest `ingest_seq` wins (without that column, the last in the table). `ttl` (microseconds, None:
    no limit): what is older than the target by more is null. Both tables have `event_time`; the answer is `targets`
    in its order, with history's other columns. DataError where a column would be there twice.
    """
    added = [name for name in history.column_names if name not in (*by, *TIMES)]
    if twice := sorted(set(added) & set(targets.column_names)):
        raise DataError(f"{', '.join(twice)}: in the targets and in the history; rename or drop one")
    own, asked = entity_codes([history.column(name) for name in by], [targets.column(name) for name in by])
    time, at = micros_of(history.column("event_time")), micros_of(targets.column("event_time"))
    seq = micros_of(history.column("ingest_seq")) if "ingest_seq" in history.column_names else None
    line, rows = Timeline(own, time, seq), Timeline(asked, at)
    created = (
        micros_of(history.column("created_time"))[line.order] if "created_time" in history.column_names else line.time
    )
    entity, when = rows.entity, rows.time
    found = visible_before(line, created, line.first(entity, when + 1), entity, when)
    if ttl is not None and line.size:
        found = np.where(line.time[found] >= when - ttl, found, -1)
    index = np.empty_like(found)
    index[rows.order] = np.append(line.order, -1)[found]
    taken = history.select(added).take(pa.array(index, mask=index < 0))
    for name in added:
        targets = targets.append_column(history.schema.field(name).with_nullable(True), taken.column(name))
    return targets


# rows ---------------------------------------------------------------------------------------------------------------


def feature_rows(use_case: UseCase, events: Mapping[str, pa.Table], *, window: Window | None = None) -> pa.Table:
    """One row per event of the prediction source (in `window`), with every feature as of its event time.

    `events` holds the event table of each source that features name, from far enough back. Columns: row_id,
    event_time, the source's fields and constants, the feature columns in order; rows by (event_time, row_id).
    """
    spine = spine_of(use_case, events, window=window)
    times = spine.select(["created_time", "ingest_seq"])
    table = spine.drop_columns(["created_time", "ingest_seq"])
    for group in window_groups(use_case):
        if group.source not in events:
            raise DataError(f"features need the events of source {group.source}; {nearest(group.source, events)}")
        asked = spine.select([*dict.fromkeys([group.key, "event_time"])]).append_column(
            "ingest_seq", times["ingest_seq"]
        )
        for name, column in window_columns(group, events[group.source], asked).items():
            table = _put(table, name, column)
    return row_features(use_case, table)


def spine_of(use_case: UseCase, events: Mapping[str, pa.Table], *, window: Window | None) -> pa.Table:
    """The prediction source's events in `window` by (event_time, ingest_seq), with `row_id` and `event_time` first."""
    source = use_case.prediction_source
    table = events[source.name]
    if window is not None:
        start, end = window.span
        time = micros_of(table.column("event_time"))
        table = table.filter(pa.array((time >= start) & (time < end)))
    time, seq = micros_of(table.column("event_time")), micros_of(table.column("ingest_seq"))
    if np.any((time[1:] < time[:-1]) | ((time[1:] == time[:-1]) & (seq[1:] <= seq[:-1]))):
        table = table.take(pa.array(np.lexsort((seq, time))))
    table = table.append_column("row_id", table.column("ingest_seq").cast(pa.int64()))
    first = ["row_id", "event_time"]
    return table.select([*first, *(name for name in table.column_names if name not in first)])


def row_features(use_case: UseCase, table: pa.Table, *, only: Collection[str] | None = None) -> pa.Table:
    """Add the features that need only the row itself: columns, calendar parts, crosses, custom ones.

    `table` has `event_time`, the prediction source's fields, and the window and lag columns. Crosses and custom
    features may be made of each other; InputError if they form a circle. `only` names the features to compute anew;
    the table then has the others already.
    """
    columns = {name: table.column(name) for name in table.column_names}
    for feature in features_of_row(use_case):
        if only is None or feature.name in only:
            columns[feature.name] = _row_feature(feature, columns, table)
    every = dict.fromkeys(use_case.feature_columns())
    return pa.table({name: columns[name] for name in (*(name for name in columns if name not in every), *every)})


@of_use_case
def features_of_row(use_case: UseCase) -> tuple[Any, ...]:
    """The features that need only the row itself, each after those that it is made of."""
    made = {name for group in window_groups(use_case) for name in (measure.column for measure in group.measures)}
    waiting = [
        feature for feature in use_case.features if feature.name not in made and not isinstance(feature, WindowFeature)
    ]
    order: list[Any] = []
    while waiting:
        ready = [f for f in waiting if not isinstance(f, (CrossFeature, CustomFeature)) or made.issuperset(f.of)]
        if not ready:
            names = ", ".join(feature.name for feature in waiting)
            raise InputError(f"features {names} are each of one another: a circle")
        made.update(feature.name for feature in ready)
        order += ready
        waiting = [feature for feature in waiting if feature.name not in made]
    return tuple(order)


def _put(table: pa.Table, name: str, column: Column) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.append_column(name, column) if at < 0 else table.set_column(at, name, column)


def _row_feature(feature: Any, columns: Mapping[str, Column], fields: pa.Table) -> Column:
    if isinstance(feature, ColumnFeature):
        return fields.column(feature.field or feature.name)
    if isinstance(feature, CalendarFeature):
        return pa.array(calendar(feature.part, micros_of(fields.column("event_time"))))
    if isinstance(feature, CrossFeature):
        return pc.binary_join_element_wise(*(columns[name].cast(pa.string()) for name in feature.of), "|")
    return _custom(feature, columns, fields.num_rows)


def _custom(feature: CustomFeature, columns: Mapping[str, Column], rows: int) -> pa.Array:
    given = {name: _plain(columns[name]) for name in feature.of}
    values = np.asarray(plugins.load(feature.transform, "transform")(given))
    if values.shape != (rows,):
        raise DataError(f"transform {feature.transform} gave shape {values.shape} for {rows} rows")
    values = values.astype(np.float64)
    return pa.array(values, mask=np.isnan(values))


def _plain(column: Column) -> NDArray[Any]:
    """What a transform gets: float64 with NaN, or objects with None for text."""
    return np.asarray(column.to_pylist(), object) if is_text(column.type) else floats(column)


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
