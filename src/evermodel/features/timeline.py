"""Events in (entity, time, sequence) order, and the position of a time among an entity's events.

Windows and as-of joins share it. Every function is vectorised over its queries. Pure numpy.
"""

from __future__ import annotations

import numpy as np

from evermodel.columns import Ints

KEY_LIMIT = 2**63


class Timeline:
    """Events sorted by (entity, time, seq), and the position of a time among an entity's events.

    Positions are indices into the sorted order; `order[position]` is the index in the caller's order.
    """

    def __init__(self, entity: Ints, time: Ints, seq: Ints | None = None) -> None:
        self.order = _order(entity, time, seq)
        self.entity, self.time = entity[self.order], time[self.order]
        self.seq = None if seq is None else seq[self.order]
        self.size = len(time)
        self._origin, last = (int(time.min()), int(time.max())) if self.size else (0, 0)
        self._width = last - self._origin + 2
        num_entities = int(self.entity[-1]) + 1 if self.size else 0
        self._times: Ints | None = None
        if (num_entities + 1) * self._width >= KEY_LIMIT:  # entity and time don't fit into one key, so rank the times
            self._times = np.unique(time)
            self._width = len(self._times) + 1
        self._key = self._keys(self.entity, self.time)
        self._end = num_entities

    def _keys(self, entity: Ints, time: Ints) -> Ints:
        if self._times is None:
            offset = np.clip(time, self._origin, self._origin + self._width - 1) - self._origin
        else:
            offset = np.searchsorted(self._times, time)
        return np.asarray(entity * self._width + offset, np.int64)

    def first(self, entity: Ints, time: Ints) -> Ints:
        """Per query the first position of the entity with an event at or after `time`; the next entity's if there is none."""
        known = np.where((entity < 0) | (entity >= self._end), self._end, entity)
        return np.asarray(np.searchsorted(self._key, self._keys(known, time)), np.int64)

    def first_from(self, entity: Ints, time: Ints, seq: Ints | None) -> Ints:
        """The same by (time, seq): the first event not before it. Without `seq` all events at `time` are not before."""
        low = self.first(entity, time)
        if seq is None or self.seq is None or not self.size:
            return low
        at = np.minimum(low, self.size - 1)
        tied = np.flatnonzero((low < self.size) & (self.entity[at] == entity) & (self.time[at] == time))
        low[tied] = _bisect(self.seq, low[tied], self._run_ends()[low[tied]], seq[tied])
        return low

    def _run_ends(self) -> Ints:
        """Per position the end of the run of events with its entity and time."""
        ends = np.append(np.flatnonzero(self._key[1:] != self._key[:-1]) + 1, self.size)
        return np.asarray(np.repeat(ends, np.diff(ends, prepend=0)), np.int64)


def _order(entity: Ints, time: Ints, seq: Ints | None) -> Ints:
    """The stable order by (entity, time, seq). Event logs come sorted by time: then only entities are sorted."""
    later = time[1:] > time[:-1]
    if seq is not None:
        later |= (time[1:] == time[:-1]) & (seq[1:] >= seq[:-1])
    else:
        later |= time[1:] == time[:-1]
    if later.all():
        return _stable_order(entity)
    by_time = np.argsort(time, kind="stable") if seq is None else np.lexsort((seq, time))
    return by_time[_stable_order(entity[by_time])]


def _stable_order(codes: Ints) -> Ints:
    """Stable argsort of small integers by 16-bit digits: numpy sorts those by radix, several times faster."""
    low = int(codes.min(initial=0))
    shifted = codes - low
    order = np.argsort((shifted & 0xFFFF).astype(np.uint16), kind="stable")
    digit, largest = 16, int(shifted.max(initial=0))
    while largest >> digit:
        part = ((shifted[order] >> digit) & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(part, kind="stable")]
        digit += 16
    return order


def _bisect(values: Ints, low: Ints, high: Ints, query: Ints) -> Ints:
    """Per query the first index in [low, high) whose value is ≥ it; values rise within each [low, high)."""
    low, high = low.copy(), high.copy()
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) >> 1
        before = values[middle] < query[open_]
        low[open_] = np.where(before, middle + 1, low[open_])
        high[open_] = np.where(before, high[open_], middle)
    return low


def visible_before(line: Timeline, created: Ints, position: Ints, entity: Ints, time: Ints, *, steps: int = 1) -> Ints:
    """The `steps`-th position before `position` of the same entity that was created by `time`; −1 if there is none.

    `created` is in the timeline's order. It goes from an event to the nearest earlier one that was
    created sooner, so a history that was loaded at once takes one step.
    """
    hop = _created_sooner(line, created) if bool(np.any(created > line.time)) else None
    found = position.copy()
    for _ in range(steps):
        found = _own(line, found - 1, entity)
        while hop is not None and (hidden := np.flatnonzero((found >= 0) & (created[found] > time))).size:
            found[hidden] = hop[found[hidden]]
    return found


def _own(line: Timeline, position: Ints, entity: Ints) -> Ints:
    """The position if its event is the entity's, else −1."""
    if not line.size:
        return np.full(len(position), -1, np.int64)
    inside = (position >= 0) & (line.entity[np.clip(position, 0, line.size - 1)] == entity)
    return np.asarray(np.where(inside, position, -1), np.int64)


def _created_sooner(line: Timeline, created: Ints) -> Ints:
    """Per position the nearest earlier one of its entity with a smaller creation time, −1 if there is none.

    By pointer jumping: no event between a position and its pointer was created sooner than it.
    """
    hop = _own(line, np.arange(-1, line.size - 1), line.entity)
    while (late := np.flatnonzero((hop >= 0) & (created[hop] >= created))).size:
        hop[late] = hop[hop[late]]
    return hop


def distinct(entity: Ints, codes: Ints, start: Ints, end: Ints) -> Ints:
    """The number of different codes ≥ 0 in [start, end) of each query; a window holds events of one entity.

    A value counts at its first position in the window: its previous position is before `start`.
    """
    size = len(codes)
    keys = entity * (int(codes.max(initial=0)) + 1) + np.maximum(codes, 0)
    known = np.flatnonzero(codes >= 0)
    order = known[np.argsort(keys[known], kind="stable")]
    previous = np.full(size, size + 1, np.int64)  # a null: never counted
    previous[order] = np.where(np.append(-1, keys[order][:-1]) == keys[order], np.append(-1, order[:-1]), -1) + 1
    numbers = np.append(0, np.cumsum(codes >= 0))
    return np.asarray(_count_below(previous, end, start + 1) - numbers[start], np.int64)


def _count_below(values: Ints, end: Ints, bound: Ints) -> Ints:
    """Per query #{i < end : values[i] < bound}, values ≥ 0, by a wavelet matrix (Claude, Navarro & Ordóñez 2015)."""
    low, high = np.zeros_like(end), end.copy()
    counted = np.zeros_like(end)
    for bit in range(int(max(values.max(initial=0), bound.max(initial=0))).bit_length() - 1, -1, -1):
        zero = ((values >> bit) & 1) == 0
        zeros = np.append(0, np.cumsum(zero))
        is_set = ((bound >> bit) & 1) == 1
        low_zeros, high_zeros = zeros[low], zeros[high]
        counted += np.where(is_set, high_zeros - low_zeros, 0)
        low = np.where(is_set, zeros[-1] + low - low_zeros, low_zeros)
        high = np.where(is_set, zeros[-1] + high - high_zeros, high_zeros)
        values = np.concatenate([values[zero], values[~zero]])
    return counted
