"""Window features by entity id: materialised from the event log, and read while a request waits.

A *view* holds the window and lag features of one entity of one use case, named `{use case}__{entity}`. The same code as
for training rows computes its values, as of `now`; each materialisation is also appended to the view's offline Parquet,
which Feast reads (`features.repository`). This module doesn't import Feast, so a serving replica doesn't need it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel import storage
from evermodel.clock import from_micros, micros
from evermodel.columns import TIME, floats, ints
from evermodel.data.events import EventLog
from evermodel.errors import FeatureStoreError, nearest
from evermodel.features.packed_store import Key, KeyValueStore, PackedStore
from evermodel.features.point_in_time import window_columns
from evermodel.features.window_groups import WindowGroup, window_groups
from evermodel.records import Window
from evermodel.use_case import UseCase

NEWEST = np.iinfo(np.int64).max  # a sequence after every event: an event at `now` itself comes before the request


@dataclass(frozen=True)
class View:
    """The window and lag features of one entity: numbers and texts."""

    name: str
    entity: str
    key: str
    key_type: pa.DataType
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    groups: tuple[WindowGroup, ...]

    @property
    def features(self) -> tuple[str, ...]:
        return (*self.numbers, *self.texts)


def views(use_case: UseCase) -> tuple[View, ...]:
    """One view for each entity that has window or lag features, in the file's order of entities."""
    found = []
    groups = window_groups(use_case)
    for entity in use_case.entities:
        own = tuple(group for group in groups if group.entity == entity.name)
        if not own:
            continue
        texts: list[str] = []
        numbers: list[str] = []
        for group in own:
            for measure in group.measures:
                (texts if _is_text(use_case, group, measure.aggregate, measure.field) else numbers).append(
                    measure.column
                )
        key_type = pa.int64() if entity.type == "int" else pa.string()
        name = f"{use_case.name}__{entity.name}"
        found.append(View(name, entity.name, entity.key, key_type, tuple(numbers), tuple(texts), own))
    return tuple(found)


def _is_text(use_case: UseCase, group: WindowGroup, aggregate: str, field: str | None) -> bool:
    if aggregate not in ("last", "lag") or field is None:
        return False
    column = group.inputs[field][0]
    source = use_case.source(group.source)
    if column in source.constants:
        return isinstance(source.constants[column], str)
    return source.field(column).type == "string"


def materialize(use_case: UseCase, log: EventLog, store: KeyValueStore, *, offline_root: str, now: datetime) -> int:
    """Writes every entity's features as of `now` to the online store and the offline files; returns their number."""
    written = 0
    for view in views(use_case):
        table = snapshot(view, log, now=now)
        store.define(view.name, numbers=view.numbers, texts=view.texts)
        write_online(view, store, table)
        stamp = f"{now:%Y%m%dT%H%M%S%f}"
        storage.write_table(storage.join(offline_root, view.name, f"date={now:%Y-%m-%d}", f"{stamp}.parquet"), table)
        written += table.num_rows
    return written


def snapshot(view: View, log: EventLog, *, now: datetime) -> pa.Table:
    """Every known entity's features at `now`: its key, the features, `event_timestamp` and `created`."""
    events = {group.source: _events(log, group, now) for group in view.groups}
    keys = pa.concat_arrays([pc.unique(table[view.key]) for table in events.values()]).drop_null()
    keys = pc.unique(keys)
    keys = keys.take(pc.sort_indices(keys))
    targets = pa.table(
        {
            view.key: keys,
            "event_time": pa.array([now] * len(keys), TIME),
            "ingest_seq": pa.array(np.full(len(keys), NEWEST), pa.int64()),
        }
    )
    columns: dict[str, Any] = {view.key: keys.cast(view.key_type)}
    for group in view.groups:
        columns.update(window_columns(group, events[group.source], targets))
    columns = {name: columns[name] for name in (view.key, *view.features)}
    table = pa.table({**columns, "event_timestamp": targets["event_time"], "created": targets["event_time"]})
    return table.cast(empty_snapshot(view).schema)


def _events(log: EventLog, group: WindowGroup, now: datetime) -> pa.Table:
    start = 0 if group.reach is None else max(0, micros(now) - group.reach)
    window = Window(start=from_micros(start), end=from_micros(micros(now) + 1))
    return log.read(group.source, window=window, columns=list(group.columns))


def write_online(view: View, store: KeyValueStore, table: pa.Table) -> None:
    """Upserts a snapshot's rows; an entity whose stored row is newer keeps it."""
    numbers = np.column_stack([floats(table[name]) for name in view.numbers] or [np.empty((table.num_rows, 0))])
    columns = [table[name].to_pylist() for name in view.texts]
    texts = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in range(table.num_rows)]
    store.write(view.name, table[view.key].to_pylist(), ints(table["event_timestamp"]), numbers, texts)


def empty_snapshot(view: View) -> pa.Table:
    """A table without rows, with the columns and types of the view's offline files."""
    numbers = [pa.field(name, pa.float64()) for name in view.numbers]
    texts = [pa.field(name, pa.string()) for name in view.texts]
    times = [pa.field(name, TIME) for name in ("event_timestamp", "created")]
    return pa.schema([pa.field(view.key, view.key_type), *numbers, *texts, *times]).empty_table()


def open_store(uri: str, *, password_file: str | None = None, timeout_s: float = 5.0) -> KeyValueStore:
    """The online store at a URI: Redis, or the file of a path. For one thread."""
    if uri.startswith(("redis://", "rediss://")):
        from evermodel.features.redis_store import RedisStore

        return RedisStore(uri, password_file=password_file, timeout_s=timeout_s)
    return PackedStore(uri, timeout_s=timeout_s)


class OnlineStore:
    """Reads a use case's features by entity id; any thread may call it."""

    def __init__(self, use_case: UseCase, uri: str, *, password_file: str | None = None) -> None:
        self._views = {view.entity: view for view in views(use_case)}
        self._ttl = use_case.serving.ttl
        self._uri, self._password_file = uri, password_file
        self._is_file = "://" not in uri
        self._stores = threading.local()

    @property
    def entities(self) -> tuple[str, ...]:
        """The entities that have features."""
        return tuple(self._views)

    def features(self, entity: str) -> tuple[str, ...]:
        return self._view(entity).features

    def read(self, entity: str, keys: Sequence[Key], *, timeout_s: float, now: datetime | None = None) -> pa.Table:
        """One row per key, in order: the key, the features (null if unknown or older than the TTL at `now`), event_time.

        FeatureStoreError if the store is gone, doesn't answer in `timeout_s`, or the view was never materialised.
        """
        view = self._view(entity)
        packed = self._store(timeout_s).read(view.name, keys)
        known = packed.event_times >= 0
        if now is not None and self._ttl is not None:
            known &= packed.event_times >= micros(now) - self._ttl
        columns: dict[str, Any] = {view.key: pa.array([*keys], view.key_type)}
        for index, name in enumerate(packed.number_names):
            values = packed.numbers[:, index]
            columns[name] = pa.array(values, pa.float64(), mask=np.isnan(values) | ~known)
        for name in packed.text_names:
            texts = zip(packed.column(name), known, strict=True)
            columns[name] = pa.array([text if ok else None for text, ok in texts], pa.string())
        columns["event_time"] = pa.array(packed.event_times, TIME, mask=packed.event_times < 0)
        return pa.table(columns)

    def _view(self, entity: str) -> View:
        if entity not in self._views:
            raise FeatureStoreError(f"entity {entity!r} has no window features; {nearest(entity, self._views)}")
        return self._views[entity]

    def _store(self, timeout_s: float) -> KeyValueStore:
        if self._is_file and not storage.exists(self._uri):
            raise FeatureStoreError(f"online store {self._uri} is not there: materialise the features first")
        if not hasattr(self._stores, "store"):
            self._stores.store = open_store(self._uri, password_file=self._password_file, timeout_s=timeout_s)
        store: KeyValueStore = self._stores.store
        return store
