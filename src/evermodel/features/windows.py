"""Windows over an entity's events: in bulk for training sets, incrementally for the online store, equal to the last bit.

`bulk`, here, and `incremental.Incremental` have the same semantics. Events are ordered by (event time τ, ingest sequence
s). A row at time t with sequence q sees an event of its entity in a window of `span` S and `delay` d if

    (τ, s) < (t − d, q)   and   τ ≥ t − d − S   and   created ≤ t.

A row is never in its own window, ties go by ingest sequence, and no event is seen before its creation. If the windows
are of another source than the rows, sequences can't be compared, and the tie τ = t − d is left out (half-open).

Sums are exact: a value is rounded to a whole multiple of its field's `resolution` and added as int64, so order and
batching don't matter. `mean` is sum ÷ number of non-null values, one expression for both. Times and spans are int64
microseconds. Pure numpy: no clock, no I/O, no Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evermodel.columns import Flags, Ints
from evermodel.features.measures import EventArrays, Measure, TargetRows, check_sums, mean, quantise
from evermodel.features.timeline import Timeline, distinct, visible_before

_PAIRS = 1 << 22  # (row, event) pairs in memory at once when windows are computed event by event


def bulk(events: EventArrays, targets: TargetRows, measures: Sequence[Measure]) -> dict[str, NDArray[Any]]:
    """Every measure for every target, m values each, in the targets' order.

    float64 for count, sum, mean, rate and distinct (NaN: no value); int64 for last and lag: the index of the event that
    has the value, −1 if there is none. Events are sorted once; spans share the sort, the prefix sums and the right end
    of the window. O((n + m) log n); rows with late-created events in their windows are computed event by event.
    """
    return _Bulk(events, targets).compute(measures)


class _Bulk:
    """The work that measures share. Arrays are in the timelines' order unless stated."""

    def __init__(self, events: EventArrays, targets: TargetRows) -> None:
        self.events = events
        self.line = Timeline(events.entity, events.time, events.seq)
        self.rows = Timeline(targets.entity, targets.time, targets.seq)
        self.created = events.created[self.line.order]
        self._ends: dict[int, Ints] = {}
        self._columns: dict[tuple[str, str], NDArray[Any]] = {}

    def compute(self, measures: Sequence[Measure]) -> dict[str, NDArray[Any]]:
        results: dict[str, NDArray[Any]] = {}
        for measure in measures:
            found = self._lag(measure) if measure.aggregate == "lag" else self._window(measure)
            back = np.empty_like(found)
            back[self.rows.order] = found
            results[measure.column] = back
        return results

    def _end(self, delay: int) -> Ints:
        if delay not in self._ends:
            rows = self.rows
            self._ends[delay] = self.line.first_from(rows.entity, rows.time - delay, rows.seq)
        return self._ends[delay]

    def _lag(self, measure: Measure) -> Ints:
        rows, end = self.rows, self._end(measure.delay)
        found = visible_before(self.line, self.created, end, rows.entity, rows.time, steps=measure.steps)
        if measure.field is not None:
            found = np.where((found >= 0) & self._valid(measure.field)[found], found, -1) if self.line.size else found
        return self._event_index(found)

    def _window(self, measure: Measure) -> NDArray[Any]:
        rows, end = self.rows, self._end(measure.delay)
        start = self.line.first(rows.entity, rows.time - measure.delay - measure.span)
        late = self._late_rows(measure)
        name = measure.field
        if measure.aggregate == "count" or name is None:
            count = end - start
            self._recompute(late, start, end, None, count=count)
            return count.astype(np.float64)
        valid = self._valid(name)
        if measure.aggregate == "last":
            last = np.append(self._cached("last", name), -1)[end - 1]  # the −1 is for rows without an event before them
            last = np.where(last >= start, last, -1)
            self._recompute(late, start, end, valid, last=last)
            return self._event_index(last)
        if measure.aggregate == "distinct":
            codes = self._codes(name)
            kinds = distinct(self.line.entity, codes, start, end)
            self._recompute(late, start, end, valid, codes=codes, kinds=kinds)
            return kinds.astype(np.float64)
        numbers = self._cached("numbers", name)
        units, prefix = self._cached("units", name), self._cached("prefix", name)
        count, total = numbers[end] - numbers[start], prefix[end] - prefix[start]
        resolution = self.events.fields[name].resolution
        check_sums(units, start, end, resolution)
        self._recompute(late, start, end, valid, count=count, units=units, total=total)
        if measure.aggregate == "sum":
            return np.asarray(total * resolution, np.float64)
        return np.where(count > 0, mean(total, resolution, np.maximum(count, 1)), np.nan)

    def _event_index(self, position: Ints) -> Ints:
        """Positions → indices of the events in the caller's order."""
        return np.append(self.line.order, -1)[position]

    def _valid(self, name: str) -> Flags:
        return np.asarray(self._cached("valid", name), np.bool_)

    def _cached(self, kind: str, name: str) -> NDArray[Any]:
        if (kind, name) not in self._columns:
            self._columns[kind, name] = self._column(kind, name)
        return self._columns[kind, name]

    def _column(self, kind: str, name: str) -> NDArray[Any]:
        column, order = self.events.fields[name], self.line.order
        if kind == "valid":
            return column.valid[order]
        if kind == "last":
            positions = np.where(self._valid(name), np.arange(self.line.size), -1)
            return np.asarray(np.maximum.accumulate(positions))
        if kind == "numbers":
            return np.append(0, np.cumsum(self._valid(name), dtype=np.int64))
        if kind == "units":
            if column.values is None:
                raise ValueError(f"field {name} has no values to add")
            return quantise(np.where(column.valid, column.values, 0.0), column.resolution)[order]
        return np.append(0, np.cumsum(self._cached("units", name)))  # wraps: differences are exact modulo 2⁶⁴

    def _codes(self, name: str) -> Ints:
        codes = self.events.fields[name].codes
        if codes is None:
            raise ValueError(f"field {name} has no codes to count")
        return np.where(self._valid(name), codes[self.line.order], -1)

    def _late_rows(self, measure: Measure) -> Ints:
        """The rows whose window holds an event that was created after them: coverage of [τ + d, created) by late events."""
        tau, delay = self.line.time, measure.delay
        late = np.flatnonzero(self.created > tau + delay)
        if not late.size:
            return late
        entity, earliest = self.line.entity[late], tau[late] + delay
        until = np.minimum(self.created[late], earliest + measure.span + 1)
        cover = np.zeros(self.rows.size + 1, np.int64)
        np.add.at(cover, self.rows.first(entity, earliest), 1)
        np.add.at(cover, self.rows.first(entity, until), -1)
        return np.flatnonzero(np.cumsum(cover[:-1]) > 0)

    def _recompute(self, late: Ints, start: Ints, end: Ints, valid: Flags | None, **into: Ints) -> None:
        """Computes the named results of the rows `late` again, exactly, from the events of their windows."""
        for rows in _portions(late, end - start):
            lengths = end[rows] - start[rows]
            row = np.repeat(np.arange(len(rows)), lengths)
            event = np.arange(lengths.sum()) + np.repeat(start[rows] - (np.cumsum(lengths) - lengths), lengths)
            seen = self.created[event] <= self.rows.time[rows][row]
            if valid is not None:
                seen &= valid[event]
            row, event = row[seen], event[seen]
            if "count" in into:
                into["count"][rows] = np.bincount(row, minlength=len(rows))
            if "total" in into:
                total = np.zeros(len(rows), np.int64)
                np.add.at(total, row, into["units"][event])
                into["total"][rows] = total
            if "last" in into:
                last = np.full(len(rows), -1, np.int64)
                np.maximum.at(last, row, event)
                into["last"][rows] = last
            if "kinds" in into:
                codes = into["codes"][event]
                pairs = np.unique(row * (int(codes.max(initial=0)) + 1) + codes)
                into["kinds"][rows] = np.bincount(pairs // (int(codes.max(initial=0)) + 1), minlength=len(rows))


def _portions(rows: Ints, lengths: Ints) -> Iterator[Ints]:
    """`rows` in pieces whose lengths add up to about _PAIRS, so that memory stays bounded."""
    if rows.size:
        piece = np.cumsum(lengths[rows]) // _PAIRS
        yield from np.split(rows, np.flatnonzero(np.diff(piece)) + 1)
