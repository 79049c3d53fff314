"""The rows of a training round: point-in-time, by windows of event time, reproducible.

Terms. *Matured*: older than the longest label delay, so every label that will ever be known is known. *Fresh*: matured
rows of the given windows with a known label. *Gate*: the newest share of the fresh rows, cut at an event time, the
`cursor`; the challenger never trains on them, and the next round starts with them. *Rehearsal*: older labelled rows,
drawn by seed, against forgetting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel import storage
from evermodel.clock import from_micros, micros
from evermodel.columns import Flags, Ints, codes_with_null, ints, valid_mask
from evermodel.data import sampling
from evermodel.data.events import EventLog
from evermodel.data.labels import labels
from evermodel.data.splits import newest_share
from evermodel.errors import DataError
from evermodel.features.point_in_time import feature_rows, spine_of
from evermodel.features.window_groups import window_groups
from evermodel.records import Mode, Ref, TrainingSet, Window
from evermodel.use_case import UseCase

PARTS = ("train", "gate", "rehearsal")


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The rows of one training round; each table is sorted by (event_time, row_id)."""

    train: pa.Table
    gate: pa.Table
    rehearsal: pa.Table | None
    windows: tuple[Window, ...]  # of the rows in `train`
    gate_window: Window
    rehearsal_window: Window | None  # the event times of the rows that rehearsal rows are drawn from
    row_digest: str  # sha256 over the sorted int64 ids of the rows trained on, rehearsal rows included
    cursor: datetime  # the next round's fresh rows start here
    data_version: str


def build_rows(
    use_case: UseCase, log: EventLog, *, window: Window | None, now: datetime, labelled: bool = True
) -> pa.Table:
    """The rows table of the prediction source's events in `window` that are known at `now`.

    Features are as of each row's event time, from events created by then. `label:<name>` columns are null if unknown
    or not yet matured at `now`; they are left out if not `labelled`.
    """
    events = _read(use_case, log, window)
    name = use_case.predict.source
    spine = events[name]
    known = spine.filter(pa.array(_known(spine, now)))
    table = feature_rows(use_case, {**events, name: spine}, window=window)
    if known.num_rows < spine.num_rows:
        table = table.filter(pc.is_in(table["row_id"], value_set=known["ingest_seq"].combine_chunks()))
    if not labelled:
        return table
    known_spine = spine_of(use_case, {name: known}, window=window)
    for label, values in labels(use_case, log, known_spine, now=now).items():
        table = table.append_column(f"label:{label}", values)
    return table


def _read(use_case: UseCase, log: EventLog, window: Window | None) -> dict[str, pa.Table]:
    """The event table of each source that rows or features need, from as far back as a feature reaches."""
    groups = window_groups(use_case)
    names = dict.fromkeys([use_case.predict.source, *(group.source for group in groups)])
    return {name: log.read(name, window=_reach(use_case, name, window)) for name in names}


def _reach(use_case: UseCase, source: str, window: Window | None) -> Window | None:
    reaches = [group.reach for group in window_groups(use_case) if group.source == source]
    if window is None or None in reaches:
        return None
    start, end = window.span
    return Window(
        start=from_micros(max(start - max((r for r in reaches if r is not None), default=0), 0)), end=from_micros(end)
    )


def _known(events: pa.Table, now: datetime) -> Flags:
    at = micros(now)
    return (ints(events["created_time"]) <= at) & (ints(events["event_time"]) <= at)


def training_rows(
    use_case: UseCase,
    log: EventLog,
    *,
    windows: Sequence[Window],
    now: datetime,
    champion_cursor: datetime | None,
    mode: Mode,
    seed: int,
    rows: pa.Table | None = None,
    data_version: str | None = None,
) -> TrainingRows:
    """Splits the rows that have matured by `now` into train, gate and rehearsal.

    `windows`: what to train on; if empty, all since the champion's cursor. Without a `champion_cursor` this is the first
    champion, trained on its windows except `gate.first_share`; its cursor is their end. Rows before a champion's cursor
    may be trained on again, but are no gate rows, because the champion has seen them. `from_scratch` beside a champion
    trains on all matured rows from `training.first`'s start to the same cut, without rehearsal.
    `rows` (the whole log's, with labels as of any later time) and its `data_version` save computing them again; the
    result is the same. DataError if there is nothing to train on or to evaluate on.
    """
    table = rows if rows is not None else build_rows(use_case, log, window=None, now=now)
    table = table.filter(pa.array(_usable(use_case, log, table, now, given=rows is not None)))
    time = ints(table["event_time"])
    given_windows = tuple(windows) or _default_windows(use_case, champion_cursor, now)
    floor = micros(champion_cursor) if champion_cursor is not None else None
    inside = _inside(time, given_windows)
    fresh = inside if floor is None else inside & (time >= floor)
    share = use_case.gate.first_share if floor is None else use_case.gate.share
    cut = _cut(use_case, time[fresh], share, given_windows)
    gate = fresh & (time >= cut)
    if floor is not None and mode == "from_scratch":
        trained = _from_scratch_windows(use_case, time, cut)
    else:
        trained = _windows_before(cut, given_windows)
    train = np.flatnonzero(_inside(time, trained))
    if not train.size:
        raise DataError(f"{use_case.name}: no matured, labelled row to train on before {from_micros(cut)}")
    generator = np.random.default_rng(seed)
    train = _sample(use_case, table, train, generator)
    rehearsal, rehearsal_window = np.zeros(0, np.int64), None
    if floor is not None and mode == "stateful":
        pool = _rehearsal_pool(use_case, time, floor) & ~_inside(time, trained)
        rehearsal = _draw(pool, use_case.training.stateful.rehearsal_share, train.size, generator)
        if rehearsal.size:
            rehearsal_window = Window(start=from_micros(time[pool].min()), end=from_micros(floor))
    ids = ints(table["row_id"])
    end = max(window.end for window in given_windows)
    return TrainingRows(
        train=table.take(pa.array(train)),
        gate=table.filter(pa.array(gate)),
        rehearsal=table.take(pa.array(rehearsal)) if rehearsal.size else None,
        windows=trained,
        gate_window=Window(start=from_micros(cut), end=from_micros(int(time[gate].max()) + 1)),
        rehearsal_window=rehearsal_window,
        row_digest=row_digest(np.concatenate([ids[train], ids[rehearsal]])),
        cursor=end if floor is None else from_micros(cut),
        data_version=data_version or log.data_version([source.name for source in use_case.sources]),
    )


def row_digest(ids: Ints) -> str:
    """sha256 over the sorted ids as little-endian int64."""
    return hashlib.sha256(np.sort(ids).astype("<i8").tobytes()).hexdigest()


def _usable(use_case: UseCase, log: EventLog, table: pa.Table, now: datetime, *, given: bool) -> Flags:
    """Matured at `now`, known at `now`, and with at least one objective's label known."""
    usable = ints(table["event_time"]) + use_case.maturity <= micros(now)
    labelled = np.zeros(table.num_rows, np.bool_)
    for name in dict.fromkeys(objective.label for objective in use_case.objectives):
        labelled |= valid_mask(table[f"label:{name}"])
    usable &= labelled
    if given and use_case.prediction_source.created_time is not None:  # rows don't hold their creation times
        events = log.read(use_case.predict.source, columns=["event_time", "created_time", "ingest_seq"])
        late = events.filter(pa.array(~_known(events, now)))["ingest_seq"]
        usable &= ~np.isin(ints(table["row_id"]), ints(late))
    return usable


def _default_windows(use_case: UseCase, cursor: datetime | None, now: datetime) -> tuple[Window, ...]:
    if cursor is not None:
        return (Window(start=cursor, end=now),)
    if use_case.training.first is not None:
        return (use_case.training.first,)
    return (Window(start=from_micros(0), end=now),)


def _inside(time: Ints, windows: Sequence[Window]) -> Flags:
    inside = np.zeros(len(time), np.bool_)
    for start, end in (window.span for window in windows):
        inside |= (time >= start) & (time < end)
    return inside


def _cut(use_case: UseCase, time: Ints, share: float, given_windows: Sequence[Window]) -> int:
    """The event time from which rows are gate rows: the newest `share`, at least one, never through a tie."""
    if not time.size:
        spans = ", ".join(str(window) for window in given_windows)
        raise DataError(f"{use_case.name}: no matured, labelled row in {spans} that no model has trained on")
    return newest_share(time, max(share, 1 / time.size))


def _windows_before(cut: int, windows: Sequence[Window]) -> tuple[Window, ...]:
    """The parts of the windows that end at the cut, or before it."""
    return tuple(
        Window(start=window.start, end=min(window.end, from_micros(cut))) for window in windows if window.span[0] < cut
    )


def _from_scratch_windows(use_case: UseCase, time: Ints, cut: int) -> tuple[Window, ...]:
    first = use_case.training.first
    start = first.start if first is not None else from_micros(int(time.min()))
    return (Window(start=start, end=from_micros(cut)),) if micros(start) < cut else ()


def _sample(use_case: UseCase, table: pa.Table, train: Ints, generator: np.random.Generator) -> Ints:
    """At most `training.sample` rows, by simple sampling or stratified by the first objective's label."""
    size = use_case.training.sample
    if size is None or train.size <= size:
        return train
    if use_case.training.sampling == "simple":
        return train[sampling.simple(train.size, size, generator)]
    strata = codes_with_null(table[f"label:{use_case.objectives[0].label}"])[train]
    return train[sampling.stratified(strata, size, generator)]


def _rehearsal_pool(use_case: UseCase, time: Ints, cursor: int) -> Flags:
    span = use_case.training.stateful.rehearsal_span
    return (time < cursor) & (time >= cursor - span) if span is not None else time < cursor


def _draw(pool: Flags, share: float, num_train: int, generator: np.random.Generator) -> Ints:
    """Draws rows of the pool without replacement, in time order, so that they are `share` of all rows trained on."""
    candidates = np.flatnonzero(pool)
    return candidates[sampling.simple(candidates.size, round(share / (1 - share) * num_train), generator)]


# by reference -------------------------------------------------------------------------------------------------------


def save(use_case: UseCase, rows: TrainingRows, root_uri: str) -> TrainingSet:
    """Writes the tables as Parquet below `root_uri`; the same rows give the same bytes and digests."""
    refs: dict[str, Ref] = {}
    for part, table in _tables(rows).items():
        uri = storage.join(root_uri, f"{part}.parquet")
        refs[part] = Ref(uri=uri, digest=storage.write_table(uri, table.combine_chunks()))
    return describe(use_case, rows, refs)


def describe(use_case: UseCase, rows: TrainingRows, refs: Mapping[str, Ref]) -> TrainingSet:
    """The record of a round's rows. `refs`: where the tables `train`, `gate` and perhaps `rehearsal` are."""
    return TrainingSet(
        use_case=use_case.name,
        windows=rows.windows,
        gate_window=rows.gate_window,
        rehearsal_window=rows.rehearsal_window,
        train=refs["train"],
        gate=refs["gate"],
        rehearsal=refs.get("rehearsal"),
        rows=rows.train.num_rows,
        gate_rows=rows.gate.num_rows,
        rehearsal_rows=rows.rehearsal.num_rows if rows.rehearsal is not None else 0,
        row_digest=rows.row_digest,
        data_version=rows.data_version,
        cursor=rows.cursor,
    )


def load(training_set: TrainingSet) -> TrainingRows:
    """Reads saved rows; IntegrityError if bytes or rows differ from the manifest."""
    train, gate = (storage.read_table(ref.uri, digest=ref.digest) for ref in (training_set.train, training_set.gate))
    rehearsal = training_set.rehearsal
    return TrainingRows(
        train=train,
        gate=gate,
        rehearsal=storage.read_table(rehearsal.uri, digest=rehearsal.digest) if rehearsal is not None else None,
        windows=training_set.windows,
        gate_window=training_set.gate_window,
        rehearsal_window=training_set.rehearsal_window,
        row_digest=training_set.row_digest,
        cursor=training_set.cursor,
        data_version=training_set.data_version,
    )


def _tables(rows: TrainingRows) -> Mapping[str, pa.Table]:
    return {part: table for part in PARTS if (table := getattr(rows, part)) is not None}
