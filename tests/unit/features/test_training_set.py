"""The rows of a training round: train, rehearsal and gate rows, unseen rows, and that all of it is reproducible."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel import storage
from evermodel.clock import from_micros
from evermodel.columns import floats
from evermodel.data.events import EventLog
from evermodel.errors import DataError, IntegrityError
from evermodel.features.training_set import TrainingRows, build_rows, load, save, training_rows
from evermodel.records import TrainingSet, Window
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000
USER = {"kind": "window", "source": "views", "entity": "user"}


def parsed(*, source: dict[str, Any] | None = None, **training: Any) -> UseCase:
    return make_use_case(
        entities={"user": {"key": "user", "type": "int"}},
        fields={"user": "int", "price": {}, "bought": {"type": "int", "nullable": True}},
        source={
            "name": "views",
            "reader": "parquet",
            "path": "views.parquet",
            "event_time": {"field": "event_time"},
            **(source or {}),
        },
        labels={"bought": {"delay": "2h"}},
        features={
            "price": {},
            "views": {**USER, "aggregate": "count", "spans": ["6h", "1d"]},
            "bought_rate": {**USER, "aggregate": "rate", "field": "bought", "spans": ["1d"], "delay": "2h"},
        },
        training={
            "first": {"start": "2026-01-02T00:00:00Z", "end": "2026-01-04T00:00:00Z"},
            "stateful": {"rehearsal_share": 0.2},
            **training,
        },
        gate={"share": 0.25, "first_share": 0.1},
    )


LATE = {"created_time": {"field": "created_time"}}


def hours(number: float) -> datetime:
    return START + timedelta(hours=number)


def stamps(values: Any) -> pa.Array:
    return pa.array(np.asarray(values, np.int64)).cast(pa.timestamp("us", tz="UTC"))


def events(count: int = 2000, *, late: bool = False) -> pa.Table:
    """Ten days in quarters of an hour, two events each: every time is a tie. A tenth of the labels is unknown."""
    generator = np.random.default_rng(2)
    at = int(START.timestamp()) * 1_000_000 + np.arange(count) // 2 * (HOUR // 4)
    behind = np.where(generator.random(count) < 0.1, generator.integers(0, 30 * HOUR, count), 0) if late else 0
    return pa.table(
        {
            "user": generator.integers(0, 20, count),
            "price": generator.random(count),
            "bought": pa.array([None if b == 9 else b % 2 for b in generator.integers(0, 10, count)], pa.int64()),
            "event_time": stamps(at),
            "created_time": stamps(at + behind),
        }
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    log = EventLog(str(tmp_path_factory.mktemp("log")))
    table = events()
    log.append("views", table.slice(0, 700), batch_id="a")
    log.append("views", table.slice(700), batch_id="b")
    return log


@pytest.fixture(scope="module")
def late_log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    log = EventLog(str(tmp_path_factory.mktemp("late")))
    log.append("views", events(late=True), batch_id="a")
    return log


def ids(table: pa.Table | None) -> set[int]:
    return set() if table is None else set(table["row_id"].to_pylist())


def times(table: pa.Table) -> list[datetime]:
    found: list[datetime] = table["event_time"].to_pylist()
    return found


def round_rows(log: EventLog, **changes: Any) -> TrainingRows:
    """The second round, unless changed: the champion was trained up to hour 72, and now is hour 170."""
    settings: dict[str, Any] = {
        "use_case": parsed(),
        "windows": [Window(start=hours(72), end=hours(170))],
        "now": hours(170),
        "champion_cursor": hours(72),
        "mode": "stateful",
        "seed": 3,
    }
    settings.update(changes)
    return training_rows(settings.pop("use_case"), log, **settings)


def test_rows_are_the_known_events_with_features_and_matured_labels(log):
    table = build_rows(parsed(), log, window=None, now=hours(100))
    assert max(times(table)) == hours(100)
    assert table.column_names == [
        *("row_id", "event_time", "user", "bought", "price", "views_6h", "views_1d", "bought_rate_1d", "label:bought")
    ]
    label = table["label:bought"].to_pylist()
    for at, bought, found in zip(times(table), table["bought"].to_pylist(), label, strict=True):
        assert found == (bought if at + timedelta(hours=2) <= hours(100) else None)
    assert "label:bought" not in build_rows(parsed(), log, window=None, now=hours(100), labelled=False).column_names


def test_rows_of_a_window_equal_the_same_rows_of_all(log):
    window = Window(start=hours(50), end=hours(60))
    every = build_rows(parsed(), log, window=None, now=hours(300))
    inside = [row for row in every.to_pylist() if hours(50) <= row["event_time"] < hours(60)]
    assert build_rows(parsed(), log, window=window, now=hours(300)).to_pylist() == inside


def test_an_event_created_later_is_no_row_and_in_no_window(late_log):
    case = parsed(source=LATE)
    now = hours(100)
    table = build_rows(case, late_log, window=None, now=now)
    stored = late_log.read("views").to_pylist()
    known = {e["ingest_seq"] for e in stored if e["created_time"] <= now and e["event_time"] <= now}
    assert ids(table) == known and len(known) < sum(e["event_time"] <= now for e in stored)
    for row in table.to_pylist()[::37]:
        seen = [
            e
            for e in stored
            if e["user"] == row["user"]
            and (e["event_time"], e["ingest_seq"]) < (row["event_time"], row["row_id"])
            and e["event_time"] >= row["event_time"] - timedelta(hours=6)
            and e["created_time"] <= row["event_time"]
        ]
        assert row["views_6h"] == len(seen)


def test_the_gate_is_the_newest_share_cut_at_a_time_and_never_trained_on(log):
    made = round_rows(log)
    assert min(times(made.gate)) == made.cursor == made.gate_window.start
    assert max(times(made.train)) < made.cursor
    assert max(times(made.gate)) == hours(168)  # rows younger than two hours have no label yet
    share = made.gate.num_rows / (made.gate.num_rows + made.train.num_rows)
    assert abs(share - 0.25) < 0.01
    assert not ids(made.gate) & (ids(made.train) | ids(made.rehearsal))
    assert min(times(made.train)) >= hours(72)
    assert made.windows == (Window(start=hours(72), end=made.cursor),)


def test_rows_without_a_known_label_are_left_out(log):
    made = round_rows(log)
    for part in (made.train, made.gate, made.rehearsal):
        assert part is not None and part["label:bought"].null_count == 0


def test_rehearsal_rows_are_drawn_from_before_the_cursor_by_share_and_seed(log):
    made, again, other = round_rows(log), round_rows(log), round_rows(log, seed=4)
    assert made.rehearsal is not None and other.rehearsal is not None
    assert max(times(made.rehearsal)) < hours(72)
    assert made.rehearsal.num_rows == round(0.25 * made.train.num_rows)  # a fifth of all that is trained on
    assert made.rehearsal.equals(again.rehearsal) and made.row_digest == again.row_digest
    assert ids(made.rehearsal) != ids(other.rehearsal) and made.row_digest != other.row_digest
    assert other.train.equals(made.train) and other.gate.equals(made.gate)
    assert made.rehearsal_window is not None and made.rehearsal_window.end == hours(72)
    near = round_rows(log, use_case=parsed(stateful={"rehearsal_share": 0.2, "rehearsal_span": "12h"}))
    assert near.rehearsal is not None and min(times(near.rehearsal)) >= hours(60)
    none = round_rows(log, use_case=parsed(stateful={"rehearsal_share": 0.0}))
    assert none.rehearsal is None and none.rehearsal_window is None


def test_the_row_digest_names_every_row_trained_on(log):
    made = round_rows(log)
    trained = sorted(ids(made.train) | ids(made.rehearsal))
    assert made.row_digest == hashlib.sha256(np.array(trained, "<i8").tobytes()).hexdigest()


def test_from_scratch_has_the_same_gate_and_trains_on_all_rows_before_it(log):
    stateful, scratch = round_rows(log), round_rows(log, mode="from_scratch")
    assert scratch.gate.equals(stateful.gate) and scratch.cursor == stateful.cursor
    assert scratch.rehearsal is None and scratch.rehearsal_window is None
    assert min(times(scratch.train)) == hours(24)  # training.first starts there
    assert ids(stateful.train) < ids(scratch.train)
    assert scratch.windows == (Window(start=hours(24), end=scratch.cursor),)


def test_the_first_champions_gate_rows_join_the_rehearsal_pool(log):
    first = round_rows(log, windows=[], champion_cursor=None, mode="from_scratch", now=hours(100))
    assert first.cursor == hours(72) == max(times(first.gate)) + timedelta(minutes=15)
    assert abs(first.gate.num_rows / (first.gate.num_rows + first.train.num_rows) - 0.1) < 0.01
    assert first.rehearsal is None
    made = round_rows(log, champion_cursor=first.cursor)
    pool = round_rows(log, champion_cursor=first.cursor, use_case=parsed(stateful={"rehearsal_share": 0.9}))
    assert ids(first.gate) <= ids(pool.rehearsal) and not ids(first.gate) & ids(made.train)


def test_rows_before_the_cursor_may_be_trained_on_but_are_no_gate_rows(log):
    wide = round_rows(log, windows=[Window(start=hours(60), end=hours(170))])
    assert min(times(wide.train)) == hours(60)
    assert wide.gate.equals(round_rows(log).gate)
    assert not ids(wide.rehearsal) & ids(wide.train)
    with pytest.raises(DataError, match="no model has trained on"):
        round_rows(log, windows=[Window(start=hours(50), end=hours(70))])


def test_two_windows_leave_out_the_rows_between_them(log):
    made = round_rows(log, windows=[Window(start=hours(80), end=hours(90)), Window(start=hours(120), end=hours(140))])
    seen = [*times(made.train), *times(made.gate)]
    assert not [at for at in seen if hours(90) <= at < hours(120) or at >= hours(140) or at < hours(80)]
    assert [window.start for window in made.windows] == [hours(80), hours(120)]


@pytest.mark.parametrize("mode", ["stateful", "from_scratch"])
@pytest.mark.parametrize("late", [False, True])
def test_precomputed_rows_give_the_same_training_rows(log, late_log, mode, late):
    case, source = (parsed(source=LATE), late_log) if late else (parsed(), log)
    everything = build_rows(case, source, window=None, now=hours(10_000))
    computed = round_rows(source, use_case=case, mode=mode)
    given = round_rows(source, use_case=case, mode=mode, rows=everything, data_version=source.data_version())
    assert computed.row_digest == given.row_digest and computed.data_version == given.data_version
    for part in ("train", "gate", "rehearsal"):
        assert getattr(computed, part) == getattr(given, part)


@pytest.mark.parametrize("sampling", ["simple", "stratified"])
def test_a_sample_bounds_the_rows_trained_on(log, sampling):
    case = parsed(sample=100, sampling=sampling)
    made, whole = round_rows(log, use_case=case), round_rows(log)
    assert made.train.num_rows == 100 and made.rehearsal is not None and made.rehearsal.num_rows == 25
    assert ids(made.train) < ids(whole.train) and made.gate.equals(whole.gate)
    if sampling == "stratified":
        drawn, all_ = (floats(table["label:bought"]).mean() for table in (made.train, whole.train))
        assert abs(drawn - all_) <= 0.01


def test_nothing_matured_is_a_clear_error(log):
    with pytest.raises(DataError, match="no matured, labelled row"):
        round_rows(log, windows=[Window(start=hours(169), end=hours(170))])
    with pytest.raises(DataError, match="labelled row to train on"):
        round_rows(log, windows=[Window(start=hours(100), end=hours(100.1))])


def test_saved_rows_load_equal_and_their_bytes_are_reproducible(log, tmp_path):
    made = round_rows(log)
    saved = save(parsed(), made, str(tmp_path / "one"))
    again = save(parsed(), round_rows(log), str(tmp_path / "two"))
    assert [saved.train.digest, saved.gate.digest] == [again.train.digest, again.gate.digest]
    assert saved.rows == made.train.num_rows and saved.row_digest == made.row_digest
    loaded = load(TrainingSet.from_json(saved.to_json()))
    assert loaded.train.equals(made.train) and loaded.gate.equals(made.gate) and loaded.rehearsal == made.rehearsal
    assert (loaded.windows, loaded.cursor, loaded.data_version) == (made.windows, made.cursor, made.data_version)
    storage.write_bytes(saved.gate.uri, storage.read_bytes(saved.gate.uri)[:-1] + b"!")
    with pytest.raises(IntegrityError, match="sha256"):
        load(saved)


def test_a_training_set_saved_under_the_old_name_of_rehearsal_loads(log, tmp_path):
    saved = save(parsed(), round_rows(log), str(tmp_path))
    text = saved.to_json()
    for name in ("", "_rows", "_window"):
        text = text.replace(f'"rehearsal{name}":', f'"replay{name}":')
    assert "rehearsal_" not in text and TrainingSet.from_json(text) == saved


def test_times_beyond_the_epochs_start_do_not_break_the_reach(log):
    window = Window(start=from_micros(1), end=hours(2))
    assert build_rows(parsed(), log, window=window, now=hours(100)).num_rows == 16
