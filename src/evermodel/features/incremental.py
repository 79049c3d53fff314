"""Windows event by event, for the online store: the definition of `windows`, updated as events come in.

Plain Python over one entity's sorted events, with the same exact sums as `windows.bulk`; tests check that both are equal
to the last bit.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evermodel.errors import DataError
from evermodel.features.measures import (
    ADDED,
    LIMIT,
    EventArrays,
    FieldArrays,
    Measure,
    Scalar,
    mean,
    overflow,
    quantise,
)


class _History:
    """One entity's events in (time, seq) order, with running sums that are extended when they are needed."""

    __slots__ = ("columns", "created", "keys", "late", "sums")

    def __init__(self) -> None:
        self.keys: list[tuple[int, int]] = []
        self.created: list[int] = []
        self.columns: dict[str, list[Any]] = {}
        self.sums: dict[str, tuple[list[int], list[int]]] = {}
        self.late = False

    def insert(self, key: tuple[int, int], created: int, values: Mapping[str, Any]) -> bool:
        """Inserts an event in order; False if it is there already, so that a batch that comes again changes nothing."""
        at = len(self.keys) if not self.keys or key > self.keys[-1] else bisect_left(self.keys, key)
        if at < len(self.keys) and self.keys[at] == key:
            return False
        self.keys.insert(at, key)
        self.created.insert(at, created)
        for name, value in values.items():
            self.columns.setdefault(name, []).insert(at, value)
        for numbers, totals in self.sums.values():
            del numbers[at + 1 :], totals[at + 1 :]
        self.late |= created > key[0]
        return True

    def running(self, name: str, resolution: float) -> tuple[list[int], list[int]]:
        numbers, totals = self.sums.setdefault(name, ([0], [0]))
        for value in self.columns[name][len(numbers) - 1 :]:
            numbers.append(numbers[-1] + (value is not None))
            totals.append(totals[-1] + (0 if value is None else round(value / resolution)))
        return numbers, totals

    def cut(self, at: int) -> None:
        """Removes the first `at` events."""
        del self.keys[:at], self.created[:at]
        for values in self.columns.values():
            del values[:at]
        self.sums = {}
        self.late = any(created > key[0] for created, key in zip(self.created, self.keys, strict=True))


class Incremental:
    """The same windows, updated event by event, as the source of the online store.

    Any batching and order of arrival gives the same values, and an event that arrives twice counts once. State is
    the events within reach; `evict` bounds it. `resolutions` names the resolution of each field that is added.
    `same_source`: whether the rows to compute for are themselves events of this source.
    """

    def __init__(self, measures: Sequence[Measure], *, same_source: bool, resolutions: Mapping[str, float]) -> None:
        self.measures = tuple(measures)
        self.same_source = same_source
        self.resolutions = dict(resolutions)
        self._fields = tuple(dict.fromkeys(m.field for m in measures if m.field is not None))
        self._histories: dict[int | str, _History] = {}

    def update(self, events: EventArrays) -> int:
        """Adds events (keys as `entity`, values of every measured field); returns how many were new."""
        columns = {name: _scalars(events.fields[name]) for name in self._fields}
        for name in {m.field for m in self.measures if m.aggregate in ADDED and m.field is not None}:
            kept = [value for value in columns[name] if value is not None]
            quantise(np.asarray(kept, np.float64), self.resolutions[name])  # an error before anything changes
        times, seqs, created = events.time.tolist(), events.seq.tolist(), events.created.tolist()
        applied = 0
        for i, entity in enumerate(events.entity.tolist()):
            if entity is None:
                continue
            history = self._histories.setdefault(entity, _History())
            values = {name: column[i] for name, column in columns.items()}
            applied += history.insert((times[i], seqs[i]), created[i], values)
        return applied

    def value(self, entity: int | str | None, time: int, seq: int | None = None) -> dict[str, Scalar | None]:
        """Every measure for a row at `time`. `seq` None: a row that is ingested after all these events."""
        history = self._histories.get(entity, _EMPTY) if entity is not None else _EMPTY
        values: dict[str, Scalar | None] = {}
        ends: dict[int, int] = {}
        for measure in self.measures:
            if measure.delay not in ends:
                ends[measure.delay] = self._end(history, time - measure.delay, seq)
            end = ends[measure.delay]
            if measure.aggregate == "lag":
                values[measure.column] = _lag(history, measure, end, time)
                continue
            start = bisect_left(history.keys, (time - measure.delay - measure.span,), 0, end)
            values[measure.column] = self._aggregate(history, measure, start, end, time)
        return values

    def _end(self, history: _History, time: int, seq: int | None) -> int:
        if not self.same_source:
            return bisect_left(history.keys, (time,))
        return bisect_left(history.keys, (time + 1,) if seq is None else (time, seq))

    def _aggregate(self, history: _History, measure: Measure, start: int, end: int, time: int) -> Scalar | None:
        hidden = history.late and any(created > time for created in history.created[start:end])
        if hidden:
            history, start, end = _visible(history, start, end, time)
        name = measure.field
        if measure.aggregate == "count" or name is None:
            return float(end - start)
        column = history.columns.get(name, [])
        if measure.aggregate == "last":
            return next((column[i] for i in range(end - 1, start - 1, -1) if column[i] is not None), None)
        if measure.aggregate == "distinct":
            return float(len({value for value in column[start:end] if value is not None}))
        if start == end:
            return 0.0 if measure.aggregate == "sum" else None
        resolution = self.resolutions[name]
        numbers, totals = history.running(name, resolution)
        number, total = numbers[end] - numbers[start], totals[end] - totals[start]
        if not -LIMIT <= total < LIMIT:
            raise DataError(overflow(resolution))
        if measure.aggregate == "sum":
            return total * resolution
        return float(mean(total, resolution, number)) if number else None

    def evict(self, before: int) -> int:
        """Removes the events that no row at `before` or later can see; returns their number."""
        reach = max((m.delay + m.span for m in self.measures if m.aggregate != "lag"), default=0)
        evicted = 0
        for history in self._histories.values():
            at = bisect_left(history.keys, (before - reach,))
            for measure in self.measures:
                if measure.aggregate == "lag":
                    at = min(at, _lag_from(history, measure, before))
            history.cut(at)
            evicted += at
        self._histories = {entity: history for entity, history in self._histories.items() if history.keys}
        return evicted

    def entities(self) -> list[int | str]:
        """The entities with events, in order of arrival."""
        return list(self._histories)

    @property
    def num_events(self) -> int:
        """The events in the state, of all entities."""
        return sum(len(history.keys) for history in self._histories.values())

    def state(self, entity: int | str) -> str:
        """One entity's events as JSON: the value that the online store keeps for its id."""
        history = self._histories.get(entity, _EMPTY)
        content = {
            "time": [key[0] for key in history.keys],
            "seq": [key[1] for key in history.keys],
            "created": history.created,
            "fields": {name: history.columns.get(name, []) for name in self._fields},
        }
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    def restore(self, entity: int | str, state: str) -> None:
        """Replaces an entity's events by those that `state` saved."""
        content = json.loads(state)
        history = _History()
        history.keys = list(zip(content["time"], content["seq"], strict=True))
        history.created = list(content["created"])
        history.columns = {name: list(content["fields"][name]) for name in self._fields}
        history.late = any(created > key[0] for created, key in zip(history.created, history.keys, strict=True))
        self._histories[entity] = history

    def to_json(self) -> str:
        """All entities, for `from_json` of an Incremental with the same measures."""
        return json.dumps([[entity, self.state(entity)] for entity in self._histories], separators=(",", ":"))

    def from_json(self, text: str) -> None:
        """Replaces all state by that of `to_json`."""
        self._histories = {}
        for entity, state in json.loads(text):
            self.restore(entity, state)


_EMPTY = _History()


def _scalars(column: FieldArrays) -> list[Any]:
    """Python values, None if null; −0.0 becomes 0.0, so that equal values are one value."""
    if column.values is None:
        raise ValueError("an incremental field needs its values")
    values = column.values + 0.0 if column.values.dtype.kind == "f" else column.values
    return [value if ok else None for value, ok in zip(values.tolist(), column.valid.tolist(), strict=True)]


def _visible(history: _History, start: int, end: int, time: int) -> tuple[_History, int, int]:
    """The window without events that were created after `time`."""
    kept = [i for i in range(start, end) if history.created[i] <= time]
    seen = _History()
    seen.keys = [history.keys[i] for i in kept]
    seen.columns = {name: [values[i] for i in kept] for name, values in history.columns.items()}
    return seen, 0, len(kept)


def _lag(history: _History, measure: Measure, end: int, time: int) -> Scalar | None:
    seen = (i for i in range(end - 1, -1, -1) if history.created[i] <= time)
    for step, at in enumerate(seen, start=1):
        if step == measure.steps and measure.field is not None:
            value: Scalar | None = history.columns[measure.field][at]
            return value
    return None


def _lag_from(history: _History, measure: Measure, before: int) -> int:
    """The position of the oldest event that a lag can still reach at `before`."""
    end = bisect_left(history.keys, (before - measure.delay,))
    seen = [i for i in range(end) if history.created[i] <= before]
    return seen[-measure.steps] if len(seen) >= measure.steps else 0
