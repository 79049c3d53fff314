"""The values known at a row's time: window features for many rows at once, as-of joins, and rows of features.

The pure part of training sets: Arrow tables in, Arrow tables out, no storage and no clock. An *event table* holds a
source's fields and constants, `event_time`, `created_time` and `ingest_seq`. Serving and materialisation use the same
definitions: `window_groups` and `incremental_events` feed the online store, `row_features` completes a request's row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.columns import (
    Ints,
    as_numbers,
    ints,
    is_text,
    key_codes,
    put_column,
    shared_codes,
    to_scalar,
    valid_mask,
)
from evermodel.errors import DataError, nearest
from evermodel.features.measures import ADDED, EventArrays, FieldArrays, Measure, TargetRows
from evermodel.features.row_features import row_features
from evermodel.features.timeline import Timeline, visible_before
from evermodel.features.window_groups import TIMES, WindowGroup, window_groups
from evermodel.features.windows import bulk
from evermodel.records import Window
from evermodel.use_case import UseCase

# windows ------------------------------------------------------------------------------------------------------------


def _filtered(group: WindowGroup, events: pa.Table) -> pa.Table:
    """The events of the group: those with a key that meet `where`."""
    keep = events.column(group.key).is_valid()
    for name, value in group.where:
        column = events.column(name)
        wanted = to_scalar(value, column.type, f"{group.name}'s {name}")
        keep = pc.and_(keep, pc.fill_null(pc.equal(column, wanted), False))
    return events if pc.all(keep, min_count=0).as_py() else events.filter(keep)


def _column(group: WindowGroup, name: str, events: pa.Table) -> pa.ChunkedArray:
    column, positive = group.inputs[name]
    values = events.column(column)
    if positive is None:
        return as_numbers(values)
    return as_numbers(pc.equal(values, to_scalar(positive, values.type, f"{group.name}'s {column}")))


def incremental_events(group: WindowGroup, events: pa.Table) -> EventArrays:
    """The group's events as `Incremental.update` takes them: keys and values, not codes."""
    events = _filtered(group, events)
    fields = {}
    for name in group.inputs:
        column = _column(group, name, events)
        fields[name] = FieldArrays(
            valid=valid_mask(column), values=column.to_numpy(), resolution=group.resolutions[name]
        )
    return _events(events, np.asarray(events.column(group.key).to_pylist(), object), fields)


def _events(table: pa.Table, entity: NDArray[Any], fields: Mapping[str, FieldArrays]) -> EventArrays:
    time, created, seq = (ints(table.column(name)) for name in ("event_time", "created_time", "ingest_seq"))
    return EventArrays(entity=entity, time=time, seq=seq, created=created, fields=fields)


def window_columns(group: WindowGroup, events: pa.Table, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The group's feature columns for every row (any order; `rows` has the key, event_time and ingest_seq)."""
    events = _filtered(group, events)
    event_keys, row_keys = key_codes([events.column(group.key)], [rows.column(group.key)])
    needs = {measure.aggregate for measure in group.measures}
    columns = {name: _column(group, name, events) for name in group.inputs}
    fields = {}
    for name, column in columns.items():
        text = is_text(column.type)
        fields[name] = FieldArrays(
            valid=valid_mask(column),
            values=None if text or not needs & ADDED else column.to_numpy(),
            codes=_distinct_codes(column) if "distinct" in needs else None,
            resolution=group.resolutions[name],
        )
    seq = ints(rows.column("ingest_seq")) if group.same_source else None
    targets = TargetRows(entity=row_keys, time=ints(rows.column("event_time")), seq=seq)
    found = bulk(_events(events, event_keys, fields), targets, group.measures)
    return {measure.column: _arrow(measure, found[measure.column], columns) for measure in group.measures}


def _distinct_codes(column: pa.ChunkedArray) -> Ints:
    if not is_text(column.type):
        column = pc.add(column, 0.0)  # −0.0 and 0.0 are one value
    return shared_codes(column, pa.chunked_array([], column.type))[0]


def _arrow(measure: Measure, values: NDArray[Any], columns: Mapping[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    if measure.aggregate in ("last", "lag") and measure.field is not None:
        return columns[measure.field].take(pa.array(values, mask=values < 0))
    return pa.chunked_array([pa.array(values, mask=np.isnan(values))])


# as-of join ---------------------------------------------------------------------------------------------------------


def asof_join(targets: pa.Table, history: pa.Table, *, by: Sequence[str], ttl: int | None) -> pa.Table:
    """Joins to each target the newest row of `history` with the same `by` columns that was known at its event time.

    Known: `event_time` ≤ the target's, and `created_time` ≤ it too, if history has that column. Of several rows at one
    event time the highest `ingest_seq` wins (without that column, the last in the table). `ttl` (microseconds, None: no
    limit): a row older than the target by more than this is null. Both tables have `event_time`. Returns `targets` in
    its order with history's other columns; DataError if a column would occur twice.
    """
    added = [name for name in history.column_names if name not in (*by, *TIMES)]
    if twice := sorted(set(added) & set(targets.column_names)):
        raise DataError(f"{', '.join(twice)}: in the targets and in the history; rename or drop one")
    history_keys, target_keys = key_codes(*([table.column(name) for name in by] for table in (history, targets)))
    time, at = ints(history.column("event_time")), ints(targets.column("event_time"))
    seq = ints(history.column("ingest_seq")) if "ingest_seq" in history.column_names else None
    line, rows = Timeline(history_keys, time, seq), Timeline(target_keys, at)
    created = ints(history.column("created_time"))[line.order] if "created_time" in history.column_names else line.time
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
        targets = spine.select([*dict.fromkeys([group.key, "event_time"])]).append_column(
            "ingest_seq", times["ingest_seq"]
        )
        for name, column in window_columns(group, events[group.source], targets).items():
            table = put_column(table, name, column)
    return row_features(use_case, table)


def spine_of(use_case: UseCase, events: Mapping[str, pa.Table], *, window: Window | None) -> pa.Table:
    """The prediction source's events in `window` by (event_time, ingest_seq), with `row_id` and `event_time` first."""
    source = use_case.prediction_source
    table = events[source.name]
    if window is not None:
        start, end = window.span
        time = ints(table.column("event_time"))
        table = table.filter(pa.array((time >= start) & (time < end)))
    time, seq = ints(table.column("event_time")), ints(table.column("ingest_seq"))
    if np.any((time[1:] < time[:-1]) | ((time[1:] == time[:-1]) & (seq[1:] <= seq[:-1]))):
        table = table.take(pa.array(np.lexsort((seq, time))))
    table = table.append_column("row_id", table.column("ingest_seq").cast(pa.int64()))
    first = ["row_id", "event_time"]
    return table.select([*first, *(name for name in table.column_names if name not in first)])
