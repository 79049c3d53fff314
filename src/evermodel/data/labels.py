"""What became of the rows that were answered: a column of the row itself, or an event that followed.

A label is known `delay` after its row (matured at `now` when event time + delay ≤ now); before, it is null. A natural
label looks at events in [t, t + delay) that were created by t + delay: what comes in later changes no label, so that a
matured label is the same whenever it is asked for. A row without a match key has no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.clock import from_micros, micros
from evermodel.data.events import EventLog
from evermodel.data.tables import TIME, Int64, cell, int64, one_array, times_array
from evermodel.errors import DataError, nearest
from evermodel.records import Window
from evermodel.use_case import Label, UseCase

Mask = npt.NDArray[np.bool_]


def labels(use_case: UseCase, log: EventLog, spine: pa.Table, *, now: datetime) -> dict[str, pa.Array]:
    """Label name → one value a row of `spine` (event_time and the prediction source's columns), in its order.

    float64 for binary (0 or 1) and number, string for category; null: unknown, or not matured at `now`.
    """
    times = int64(spine.column("event_time"))
    found: dict[str, pa.Array] = {}
    for label in use_case.labels:
        values, _ = _outcomes(use_case, label, log, spine, times)
        matured = pa.array(times + label.delay <= micros(now))
        found[label.name] = pc.if_else(matured, values, pa.scalar(None, values.type))
    return found


def label_times(use_case: UseCase, log: EventLog, spine: pa.Table) -> dict[str, pa.Array]:
    """When each label of the spine's rows is first known, in truth: what a maturity curve counts.

    A column, or an outcome that never came: event time + delay. An event: when the first one was created. Null where
    the label is never known.
    """
    times = int64(spine.column("event_time"))
    found: dict[str, pa.Array] = {}
    for label in use_case.labels:
        known = times + label.delay
        values, pairs = _outcomes(use_case, label, log, spine, times)
        if pairs is not None:
            np.minimum.at(known, pairs.rows, pairs.created)
        found[label.name] = pc.if_else(values.is_valid(), times_array(known), pa.scalar(None, TIME))
    return found


def _outcomes(
    use_case: UseCase, label: Label, log: EventLog, spine: pa.Table, times: Int64
) -> tuple[pa.Array, _Pairs | None]:
    """The label's values as if all had matured, and the events that they come from."""
    if label.kind == "column":
        return _of_column(use_case, label, spine), None
    pairs = _pairs(label, log, spine, times)
    return _of_events(label, spine, pairs), pairs


def _valid(values: pa.Array) -> Mask:
    return np.asarray(values.is_valid().to_numpy(zero_copy_only=False), dtype=bool)


def _of_column(use_case: UseCase, label: Label, spine: pa.Table) -> pa.Array:
    name = label.field or label.name
    if name not in spine.column_names:
        raise DataError(f"{use_case.name}.labels.{label.name}: no column {name!r}; {nearest(name, spine.column_names)}")
    return _as_label(label, one_array(spine.column(name)), label.positive)


def _as_label(label: Label, column: pa.Array, positive: str | int | float | bool | None) -> pa.Array:
    """A column in the label's type: binary 0 or 1, number float64, category text."""
    if label.type == "category":
        return column.cast(pa.string())
    if positive is not None:
        return pc.equal(column.cast(pa.string()), _as_text(label, positive, column.type)).cast(pa.float64())
    if pa.types.is_string(column.type):
        raise DataError(f"labels.{label.name}: its field is text; say which value is positive")
    numbers = column.cast(pa.float64())
    if (
        label.type == "binary"
        and not pc.all(pc.is_in(numbers, value_set=pa.array([0.0, 1.0, None])), min_count=0).as_py()
    ):
        raise DataError(f"labels.{label.name}: a binary label without `positive` holds 0, 1 or null")
    return numbers


def _as_text(label: Label, value: str | int | float | bool, kind: pa.DataType) -> str:
    """A value of the use-case file as Arrow writes a cell of this type."""
    return (
        str(value)
        if pa.types.is_string(kind)
        else str(cell(value, kind, f"labels.{label.name}'s field").cast(pa.string()).as_py())
    )


@dataclass(frozen=True)
class _Pairs:
    """Every (row of the spine, event that followed it in time), by row, then by the events' order."""

    rows: Int64
    created: Int64
    values: pa.Array  # of `label.value`, or ones
    nameless: Mask  # rows of the spine with a null among their match columns


def _pairs(label: Label, log: EventLog, spine: pa.Table, times: Int64) -> _Pairs:
    columns = [*label.match, *([label.value] if label.value else []), "event_time", "created_time"]
    nameless = np.zeros(len(times), dtype=bool)
    for name in label.match:
        nameless |= np.asarray(spine.column(name).is_null().to_numpy(), dtype=bool)
    if not len(times) or not log.commits(label.source or ""):
        nobody = np.zeros(0, dtype=np.int64)
        return _Pairs(nobody, nobody, pa.array([], pa.float64()), nameless)
    window = Window(start=from_micros(int(times.min())), end=from_micros(int(times.max()) + label.delay + 1))
    events = log.read(label.source or "", window=window, columns=list(dict.fromkeys(columns)))
    ours, theirs = _match_codes(spine, events, label.match)
    happened, created = int64(events.column("event_time")), int64(events.column("created_time"))
    # One number orders events by (key, time): the time's rank among all event times, counted within its key.
    moments = np.unique(happened)
    width = len(moments) + 1
    keys = theirs * width + np.searchsorted(moments, happened)
    order = np.argsort(keys, kind="stable")
    first = np.searchsorted(keys[order], ours * width + np.searchsorted(moments, times))
    last = np.searchsorted(keys[order], ours * width + np.searchsorted(moments, times + label.delay))
    counts = np.where(nameless, 0, last - first)
    rows = np.repeat(np.arange(len(times)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = order[np.repeat(first, counts) + within]
    seen = created[taken] <= times[rows] + label.delay
    rows, taken = rows[seen], taken[seen]
    if label.value:
        values = one_array(events.column(label.value)).take(pa.array(taken))
    else:
        values = pa.array(np.ones(len(taken)))
    return _Pairs(rows, created[taken], values, nameless)


def _match_codes(spine: pa.Table, events: pa.Table, match: Sequence[str]) -> tuple[Int64, Int64]:
    """The same number for the same values in both tables, −1 where one of them is null."""
    rows = spine.num_rows
    codes = np.zeros(rows + events.num_rows, dtype=np.int64)
    missing = np.zeros(len(codes), dtype=bool)
    for name in match:
        left, right = spine.column(name), events.column(name)
        if left.type != right.type:
            left, right = left.cast(pa.string()), right.cast(pa.string())
        encoded = pa.concat_arrays([*left.chunks, *right.chunks]).dictionary_encode()
        part = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        missing |= part < 0
        codes = np.unique(codes * (len(encoded.dictionary) + 1) + part + 1, return_inverse=True)[1]
    codes = np.where(missing, -1, codes)
    return codes[:rows], codes[rows:]


def _of_events(label: Label, spine: pa.Table, pairs: _Pairs) -> pa.Array:
    """Whether an event followed; with `value`, the sum of what followed; of a category, what followed first."""
    if label.type == "category":
        first = np.full(spine.num_rows, -1, dtype=np.int64)
        valid = np.flatnonzero(_valid(pairs.values))
        first[pairs.rows[valid[::-1]]] = valid[::-1]
        return pairs.values.cast(pa.string()).take(pa.array(first, mask=first < 0))
    amounts = pc.fill_null(_amounts(label, pairs.values), 0.0).to_numpy(zero_copy_only=False)
    total = np.bincount(pairs.rows, weights=amounts, minlength=spine.num_rows)
    if label.type == "binary" or label.value is None:
        total = (total > 0).astype(np.float64)
    return pa.array(total, mask=pairs.nameless)


def _amounts(label: Label, values: pa.Array) -> pa.Array:
    """What each event counts: 1, or its value; of a binary label 1 where the value is the positive one, or not 0."""
    if label.value is None:
        return values
    if label.positive is not None:
        return _as_label(label, values, label.positive)
    numbers = values.cast(pa.float64())
    return pc.not_equal(numbers, 0.0).cast(pa.float64()) if label.type == "binary" else numbers
