"""The request log: an append-only log of served rows, which monitoring reads by windows.

Layout: `root/date=YYYY-MM-DD/<writer>-<number>.parquet`; each part is created whole and never changed. Rows wait in
memory until there are `flush_rows` of them or `flush_seconds` have passed. A clean shutdown writes them; a killed process
loses at most the rows that waited. A prediction id is read once, even if it was logged twice (the first row counts).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evermodel import storage
from evermodel.columns import ARROW_TYPES, TIME
from evermodel.errors import DataError
from evermodel.failpoint import failpoint
from evermodel.records import Window
from evermodel.serving.schemas import request_fields
from evermodel.use_case import (
    ColumnFeature,
    CrossFeature,
    LagFeature,
    Source,
    UseCase,
    WindowFeature,
    feature_columns,
    of_use_case,
)


class RequestLog:
    """The served rows of one use case. Thread-safe; any number of processes may write to one root."""

    def __init__(
        self,
        root: str,
        *,
        flush_rows: int = 1000,
        flush_seconds: float = 5.0,
        max_waiting: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._writer, self._number = root, uuid4().hex[:12], 0
        self._flush_rows, self._flush_seconds, self._max_waiting = flush_rows, flush_seconds, max_waiting
        self._clock, self._flushed_at = clock, clock()
        self._waiting: list[pa.Table] = []
        self._count = 0
        self._lock, self._writing = Lock(), Lock()
        self.dropped = 0  # rows lost because more than `max_waiting` of them waited for storage

    def append(self, rows: pa.Table) -> None:
        """Add served rows (with event_time and prediction_id; see `served_schema`), in memory only."""
        for name in ("event_time", "prediction_id"):
            if name not in rows.column_names:
                raise DataError(f"a served row has no {name}")
        with self._lock:
            self._waiting.append(rows)
            self._count += rows.num_rows
            while self._count > self._max_waiting and len(self._waiting) > 1:
                lost = self._waiting.pop(0).num_rows
                self._count -= lost
                self.dropped += lost

    @property
    def waiting(self) -> int:
        return self._count

    @property
    def is_due(self) -> bool:
        """Whether enough rows wait, or enough time has passed, for a flush."""
        late = self._clock() - self._flushed_at >= self._flush_seconds
        return self._count >= self._flush_rows or (late and self._count > 0)

    def flush(self) -> int:
        """Write the waiting rows as Parquet parts, one for each event date; their number. If it fails, they still wait."""
        with self._writing:
            with self._lock:
                tables, self._waiting, count, self._count = self._waiting, [], self._count, 0
                self._flushed_at = self._clock()
            if not tables:
                return 0
            try:
                self._write(_concatenate(tables))
            except Exception:
                with self._lock:
                    self._waiting, self._count = tables + self._waiting, self._count + count
                raise
            return count

    def _write(self, table: pa.Table) -> None:
        # A flush that fails half-way is written again under new names. Reading by prediction id makes that harmless.
        dates = pc.strftime(table["event_time"].cast(pa.timestamp("us")), format="%Y-%m-%d")
        for day in sorted(set(dates.to_pylist())):
            part = table.filter(pc.equal(dates, day))
            sink = pa.BufferOutputStream()
            pq.write_table(part, sink, compression="zstd")
            failpoint("request_log.part")
            self._number += 1
            name = f"{self._writer}-{self._number:08d}.parquet"
            storage.create_bytes(storage.join(self._root, f"date={day}", name), sink.getvalue().to_pybytes())

    def read(self, window: Window | None = None, *, shadow: bool = False) -> pa.Table:
        """Served rows with event_time in the window, by (event_time, prediction_id), each prediction id once.

        Rows of shadow arms, which no client received, come only with `shadow=True`. Rows that wait in memory are
        absent. An empty log gives a table without rows.
        """
        tables = []
        for path in storage.list_files(self._root, suffix=".parquet"):
            if window is None or _overlaps(_day(path), window):
                tables.append(storage.read_table(path))
        if not tables:
            return pa.table({"event_time": pa.array([], TIME), "prediction_id": pa.array([], pa.string())})
        table = _first_of_each_id(_concatenate(tables))
        if window is not None:
            times = table["event_time"]
            start, end = (pa.scalar(value, TIME) for value in window.span)
            table = table.filter(pc.and_(pc.greater_equal(times, start), pc.less(times, end)))
        if not shadow and "shadow" in table.column_names:
            table = table.filter(pc.invert(pc.fill_null(table["shadow"], False)))
        return table


@of_use_case
def served_schema(use_case: UseCase) -> pa.Schema:
    """The columns of the log: request and feature columns under their own names, then the scores and the release.

    `row_id` is null, because the event isn't in the event log yet; `event_time` and the entity keys find it there. The
    labels' own columns are absent, because labels come later. `rank` is the position in a ranking, from 1. `bundles` is
    JSON, objective → bundle digest.
    """
    columns: dict[str, pa.DataType] = {"row_id": pa.int64(), "event_time": TIME}
    columns.update(request_types(use_case))
    for name, kind in feature_types(use_case).items():
        columns.setdefault(name, kind)
    columns["score"] = pa.float64()
    columns.update({f"score:{objective.name}": pa.float64() for objective in use_case.objectives})
    columns.update(classes=pa.list_(pa.string()), release=pa.string(), arm=pa.string(), propensity=pa.float64())
    columns.update(fallback=pa.bool_(), fallback_reason=pa.string(), fallback_source=pa.string(), shadow=pa.bool_())
    columns.update(prediction_id=pa.string(), rank=pa.int64(), bundles=pa.string())
    return pa.schema(list(columns.items()))


@of_use_case
def request_types(use_case: UseCase) -> dict[str, pa.DataType]:
    """The Arrow types of a request's columns: the prediction source's fields without the labels' own, and constants."""
    types = {field.name: ARROW_TYPES[field.type] for field in request_fields(use_case)}
    return types | {name: pa.scalar(value).type for name, value in use_case.prediction_source.constants.items()}


@of_use_case
def feature_types(use_case: UseCase) -> dict[str, pa.DataType]:
    """The Arrow types of the feature columns: a column's own; text for crosses and a text's last value; else float64."""
    types: dict[str, pa.DataType] = {}
    for feature in use_case.features:
        kind = pa.float64()
        if isinstance(feature, CrossFeature):
            kind = pa.string()
        elif isinstance(feature, ColumnFeature):
            kind = _field_type(use_case.prediction_source, feature.field or feature.name)
        elif isinstance(feature, LagFeature) or (isinstance(feature, WindowFeature) and feature.aggregate == "last"):
            found = _field_type(use_case.source(feature.source), feature.field or "")
            kind = found if found == pa.string() else pa.float64()
        types.update(dict.fromkeys(feature_columns(feature), kind))
    return types


def _field_type(source: Source, name: str) -> pa.DataType:
    if name in source.constants:
        return pa.scalar(source.constants[name]).type
    return ARROW_TYPES[source.field(name).type]


def served_table(use_case: UseCase, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of Python values → a table of the log's schema; missing values are null."""
    schema = served_schema(use_case)
    return pa.table(
        {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema}, schema=schema
    )


def _concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _first_of_each_id(table: pa.Table) -> pa.Table:
    """By (event_time, prediction_id), the first row of each prediction id."""
    order = pc.sort_indices(table, sort_keys=[("event_time", "ascending"), ("prediction_id", "ascending")])
    table = table.take(order)
    ids = table["prediction_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(ids, return_index=True)
    return table.take(pa.array(np.sort(first)))


def _day(path: str) -> date | None:
    for part in path.split("/"):
        if part.startswith("date="):
            return date.fromisoformat(part.removeprefix("date="))
    return None


def _overlaps(day: date | None, window: Window) -> bool:
    if day is None:  # an unknown date may be in any window
        return True
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start < window.end and start + timedelta(days=1) > window.start
