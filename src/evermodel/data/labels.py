"""Labels of served rows: a column of the row itself, or an event that followed it.

A label is known `delay` after its row: it has matured at `now` if event time + delay ≤ now. Before that it is null. A
label of kind event counts the events in [t, t + delay) that were created by t + delay. Events that come in later change
no label, so a matured label always has the same value. A row without a match key has no label.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.clock import from_micros, micros
from evermodel.columns import Flags, Ints, as_array, ints, key_codes, to_scalar, valid_mask
from evermodel.data.events import EventLog
from evermodel.errors import DataError, nearest
from evermodel.records import Window
from evermodel.use_case import Label, UseCase


def labels(use_case: UseCase, log: EventLog, spine: pa.Table, *, now: datetime) -> dict[str, pa.Array]:
    """Label name → one value per row of `spine` (event_time and the prediction source's columns), in its order.

    float64 for binary (0 or 1) and number, string for category; null if unknown, or not matured at `now`.
    """
    times = ints(spine.column("event_time"))
    found: dict[str, pa.Array] = {}
    for label in use_case.labels:
        values = _of_column(use_case, label, spine) if label.kind == "column" else _of_events(label, log, spine, times)
        matured = pa.array(times + label.delay <= micros(now))
        found[label.name] = pc.if_else(matured, values, pa.scalar(None, values.type))
    return found


def _of_column(use_case: UseCase, label: Label, spine: pa.Table) -> pa.Array:
    name = label.field or label.name
    if name not in spine.column_names:
        raise DataError(f"{use_case.name}.labels.{label.name}: no column {name!r}; {nearest(name, spine.column_names)}")
    return _as_label(label, as_array(spine.column(name)), label.positive)


def _as_label(label: Label, column: pa.Array, positive: str | int | float | bool | None) -> pa.Array:
    """A column in the label's type: 0 or 1 if binary, float64 if number, text if category."""
    if label.type == "category":
        return column.cast(pa.string())
    if positive is not None:
        return pc.equal(column.cast(pa.string()), _as_text(label, positive, column.type)).cast(pa.float64())
    if pa.types.is_string(column.type):
        raise DataError(f"labels.{label.name}: its field is text; say which value is positive")
    numbers = column.cast(pa.float64())
    if label.type == "binary":
        zero_or_one = pc.is_in(numbers, value_set=pa.array([0.0, 1.0, None]))
        if not pc.all(zero_or_one, min_count=0).as_py():
            raise DataError(f"labels.{label.name}: a binary label without `positive` holds 0, 1 or null")
    return numbers


def _as_text(label: Label, value: str | int | float | bool, kind: pa.DataType) -> str:
    """A value of the use-case file, as Arrow writes a cell of this type."""
    if pa.types.is_string(kind):
        return str(value)
    return str(to_scalar(value, kind, f"labels.{label.name}'s field").cast(pa.string()).as_py())


@dataclass(frozen=True)
class _Pairs:
    """Every (row of the spine, event that followed it in time), by row, then by the events' order."""

    rows: Ints
    values: pa.Array  # of `label.value`, or ones


def _of_events(label: Label, log: EventLog, spine: pa.Table, times: Ints) -> pa.Array:
    """Whether an event followed; with `value`, the sum over the events; for a category, the value of the first event."""
    without_key = np.zeros(len(times), bool)
    for name in label.match:
        without_key |= ~valid_mask(spine.column(name))
    pairs = _pairs(label, log, spine, times, without_key)
    if label.type == "category":
        first = np.full(spine.num_rows, -1, dtype=np.int64)
        valid = np.flatnonzero(valid_mask(pairs.values))
        first[pairs.rows[valid[::-1]]] = valid[::-1]
        return pairs.values.cast(pa.string()).take(pa.array(first, mask=first < 0))
    amounts = pc.fill_null(_amounts(label, pairs.values), 0.0).to_numpy(zero_copy_only=False)
    total = np.bincount(pairs.rows, weights=amounts, minlength=spine.num_rows)
    if label.type == "binary" or label.value is None:
        total = (total > 0).astype(np.float64)
    return pa.array(total, mask=without_key)


def _pairs(label: Label, log: EventLog, spine: pa.Table, times: Ints, without_key: Flags) -> _Pairs:
    if not len(times) or not log.commits(label.source or ""):
        return _Pairs(np.zeros(0, np.int64), pa.array([], pa.float64()))
    columns = [*label.match, *([label.value] if label.value else []), "event_time", "created_time"]
    window = Window(start=from_micros(int(times.min())), end=from_micros(int(times.max()) + label.delay + 1))
    events = log.read(label.source or "", window=window, columns=list(dict.fromkeys(columns)))
    ours, theirs = key_codes(*([table.column(name) for name in label.match] for table in (spine, events)))
    event_time, created = ints(events.column("event_time")), ints(events.column("created_time"))
    # One number orders events by (key, time): the time's rank among all event times, counted within its key.
    distinct_times = np.unique(event_time)
    width = len(distinct_times) + 1
    keys = theirs * width + np.searchsorted(distinct_times, event_time)
    order = np.argsort(keys, kind="stable")
    first = np.searchsorted(keys[order], ours * width + np.searchsorted(distinct_times, times))
    last = np.searchsorted(keys[order], ours * width + np.searchsorted(distinct_times, times + label.delay))
    counts = np.where(without_key, 0, last - first)
    rows = np.repeat(np.arange(len(times)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = order[np.repeat(first, counts) + within]
    in_time = created[taken] <= times[rows] + label.delay
    rows, taken = rows[in_time], taken[in_time]
    values = (
        as_array(events.column(label.value)).take(pa.array(taken)) if label.value else pa.array(np.ones(len(taken)))
    )
    return _Pairs(rows, values)


def _amounts(label: Label, values: pa.Array) -> pa.Array:
    """What each event adds: 1, or its value; for a binary label 1 if the value is the positive one, or not 0."""
    if label.value is None:
        return values
    if label.positive is not None:
        return _as_label(label, values, label.positive)
    numbers = values.cast(pa.float64())
    return pc.not_equal(numbers, 0.0).cast(pa.float64()) if label.type == "binary" else numbers
