"""Window and lag features of request rows, read from the online store by entity id."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from evermodel.clock import MICROS_PER_SECOND
from evermodel.columns import TIME
from evermodel.errors import FeatureStoreError
from evermodel.serving.request_log import feature_types
from evermodel.use_case import LagFeature, UseCase, WindowFeature, feature_columns


class FeatureReader(Protocol):
    """The online store: values by entity id."""

    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        """One row a key, in order: the key column, the entity's feature columns (null if unknown), `event_time`."""
        ...


class GivenFeatures:
    """A feature reader over values in memory: {entity: {key: {column: value}}}."""

    def __init__(self, use_case: UseCase, values: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> None:
        self._use_case, self._values = use_case, values

    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        values = self._values.get(entity, {})
        types = feature_types(self._use_case)
        columns = {self._use_case.entity(entity).key: pa.array(list(keys))}
        for name in stored_columns(self._use_case)[entity]:
            columns[name] = pa.array([values.get(key, {}).get(name) for key in keys], types[name])
        columns["event_time"] = pa.array([values.get(key, {}).get("event_time") for key in keys], TIME)
        return pa.table(columns)


class OnlineFeatures:
    """Adds one use case's window and lag columns to request rows. Thread-safe."""

    def __init__(self, use_case: UseCase, reader: FeatureReader, pool: ThreadPoolExecutor) -> None:
        self._use_case, self._reader, self._pool = use_case, reader, pool
        self._stored = stored_columns(use_case)

    def add(self, rows: pa.Table, *, deadline: float) -> pa.Table:
        """The rows with the columns of each entity. Values older than the TTL are null; a new entity has had no events.

        `deadline`: on the clock of `time.monotonic`. TimeoutError if the store is later than it or than
        `feature_timeout`; FeatureStoreError if the store fails.
        """
        timeout = min(self._use_case.serving.feature_timeout / MICROS_PER_SECOND, deadline - time.monotonic())
        end = time.monotonic() + timeout
        keys = {entity: rows[self._use_case.entity(entity).key].to_pylist() for entity in self._stored}
        pending = {
            entity: self._pool.submit(self._reader.read, entity, ids, timeout_s=timeout) for entity, ids in keys.items()
        }
        try:
            for entity, future in pending.items():
                rows = self._append(rows, entity, future.result(max(end - time.monotonic(), 0.0)))
        except (TimeoutError, FeatureStoreError):
            raise
        except Exception as error:  # a store may raise exceptions of its own; the request gets the same fallback
            raise FeatureStoreError(f"the online store failed: {type(error).__name__}") from error
        finally:
            for future in pending.values():
                future.cancel()
        return rows

    def add_unknown(self, rows: pa.Table) -> pa.Table:
        """The rows with every column null."""
        types = feature_types(self._use_case)
        for name in (name for columns in self._stored.values() for name in columns):
            rows = rows.append_column(name, pa.nulls(rows.num_rows, types[name]))
        return rows

    def _append(self, rows: pa.Table, entity: str, stored: pa.Table) -> pa.Table:
        types = feature_types(self._use_case)
        times = stored["event_time"].combine_chunks()
        known, fresh = times.is_valid(), self._are_fresh(times, rows)
        all_known, all_fresh = known.true_count == len(known), fresh.true_count == len(fresh)
        for name, default in self._stored[entity].items():
            column = stored[name].combine_chunks()
            if column.type != types[name]:
                column = column.cast(types[name])
            if not all_fresh:
                column = pc.if_else(fresh, column, pa.scalar(None, types[name]))
            if not all_known:
                column = pc.if_else(known, column, pa.scalar(default, types[name]))
            rows = rows.append_column(name, column)
        return rows

    def _are_fresh(self, times: pa.Array, rows: pa.Table) -> pa.Array:
        ttl = self._use_case.serving.ttl
        if ttl is None:
            return pa.array([True] * rows.num_rows)
        oldest = pc.subtract(rows["event_time"].combine_chunks(), pa.scalar(ttl, pa.duration("us")))
        return pc.fill_null(pc.greater_equal(times.cast(TIME), oldest), False)


def stored_columns(use_case: UseCase) -> dict[str, dict[str, float | None]]:
    """entity → its window and lag columns in the online store, each with its value for an entity without events."""
    stored: dict[str, dict[str, float | None]] = {}
    for feature in use_case.features:
        if isinstance(feature, (WindowFeature, LagFeature)):
            counts = isinstance(feature, WindowFeature) and feature.aggregate in ("count", "sum", "distinct")
            columns = stored.setdefault(feature.entity, {})
            columns.update(dict.fromkeys(feature_columns(feature), 0.0 if counts else None))
    return stored
