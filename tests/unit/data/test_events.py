"""The event log holds each batch once, in order and whole, and shows committed rows only."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel import storage
from evermodel.columns import ints
from evermodel.data.events import EventLog
from evermodel.data.tables import table_digest
from evermodel.errors import ConflictError, DataError, IntegrityError
from evermodel.records import Window
from tests.support import ROOT
from tests.unit.data.shop import batch, shop


def day(number: int, end: int | None = None) -> Window:
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return Window(start=start + timedelta(days=number), end=start + timedelta(days=(end or number + 1)))


def data_files(log: EventLog, source: str = "s") -> list[str]:
    return storage.list_files(storage.join(log.root, source), suffix=".parquet")


def test_append_gives_each_row_its_place_and_read_sorts_by_time(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append("s", batch([30, 5, 5], name="a"), batch_id="one", sort_by=["name"])
    log.append("s", batch([5, 1], name="b"), batch_id="two")
    table = log.read("s")
    assert table.schema.names == ["name", "hour", "event_time", "created_time", "ingest_seq"]
    assert table.column("name").to_pylist() == ["b1", "a1", "a2", "b0", "a0"]
    assert table.column("ingest_seq").to_pylist() == [4, 1, 2, 3, 0]
    assert log.read("s", columns=["hour", "name"]).schema.names == ["hour", "name"]
    assert log.read("s", since=1).column("name").to_pylist() == ["b1", "b0"]
    assert log.read("s", since=2).num_rows == 0
    assert [Path(path).parent.name for path in data_files(log)] == ["date=1970-01-01"] * 2 + ["date=1970-01-02"]


def test_a_batch_is_there_once(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    first, new = log.append("s", batch([1, 2]), batch_id="one")
    assert new
    version = log.data_version()
    again, new = EventLog(str(tmp_path)).append("s", batch([1, 2]), batch_id="one")
    assert not new
    assert again == first
    assert log.data_version() == version
    assert log.read("s").num_rows == 2


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.integers(0, 100), max_size=6), max_size=5))
def test_nothing_is_lost_doubled_or_out_of_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    log = EventLog(str(tmp_path_factory.mktemp("log")))
    for number, hours in enumerate(batches):
        for _ in range(2):  # the second append changes nothing
            log.append("s", batch(hours, name=f"{number}:"), batch_id=str(number))
    table = log.read("s")
    assert sorted(table.column("ingest_seq").to_pylist()) == list(range(sum(map(len, batches))))
    order = list(zip(ints(table.column("event_time")), table.column("ingest_seq").to_pylist(), strict=True))
    assert order == sorted(order)
    parts = [log.read("s", window=day(number)) for number in range(5)]
    if batches:
        assert pa.concat_tables(parts).equals(table)


def test_a_window_opens_only_its_dates(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append("s", batch([0, 23, 24, 47, 48]), batch_id="one")
    for path in data_files(log):
        if "1970-01-02" not in path:
            Path(path).write_bytes(b"broken")
    assert log.read("s", window=day(1)).column("hour").to_pylist() == [24, 47]
    with pytest.raises(IntegrityError):
        log.read("s", window=day(1, 3))


@pytest.mark.parametrize("damage", ["truncate", "change", "remove"])
def test_damage_is_an_error(tmp_path: Path, damage: str) -> None:
    log = EventLog(str(tmp_path))
    log.append("s", batch([1, 2, 30]), batch_id="one")
    path = Path(data_files(log)[0])
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "truncate" else data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(IntegrityError):
        log.read("s")


def test_a_changed_or_missing_commit_is_an_error(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    for number in range(3):
        log.append("s", batch([number]), batch_id=str(number))
    second = tmp_path / "s" / "_commits" / "00000001.json"
    text = second.read_text()
    second.write_text(text.replace('"batch_id":"1"', '"batch_id":"9"'))
    with pytest.raises(IntegrityError, match="was changed"):
        EventLog(str(tmp_path)).read("s")
    second.unlink()
    with pytest.raises(IntegrityError, match="commit 1 of s is missing"):
        EventLog(str(tmp_path)).read("s")
    second.write_text("{")
    with pytest.raises(IntegrityError, match="can't be read"):
        EventLog(str(tmp_path)).read("s")


def test_compaction_keeps_the_rows_and_the_version(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    for number in range(6):
        log.append("s", batch([number, 40 - number], name=f"{number}:"), batch_id=str(number))
    before, version = log.read("s"), log.data_version()
    assert len(data_files(log)) == 12
    log.compact("s", sort_by=["name"])
    log.compact("s")
    assert len(data_files(log)) == 2
    assert log.read("s").equals(before)
    assert log.data_version() == version == EventLog(str(tmp_path)).data_version()
    assert log.read("s", since=5).column("ingest_seq").to_pylist() == [10, 11]
    log.append("s", batch([7], name="new"), batch_id="new")
    assert log.read("s").num_rows == 13
    log.compact("s")
    assert len(data_files(log)) == 2
    assert EventLog(str(tmp_path)).read("s").filter(pa.array(before_new(log))).num_rows == 12


def before_new(log: EventLog) -> list[bool]:
    return [name != "new0" for name in log.read("s").column("name").to_pylist()]


def test_a_reader_opened_before_a_compaction_reads_all_rows(tmp_path: Path) -> None:
    log, other = EventLog(str(tmp_path)), EventLog(str(tmp_path))
    log.append("s", batch([1]), batch_id="one")
    assert other.read("s").num_rows == 1
    log.append("s", batch([2]), batch_id="two")
    log.compact("s")
    assert other.read("s").num_rows == 2


def test_the_version_depends_on_content_not_on_files(tmp_path: Path) -> None:
    logs = [EventLog(str(tmp_path / name)) for name in "abc"]
    table = batch([1, 2])
    logs[0].append("s", table, batch_id="one")
    logs[1].append(
        "s", pa.concat_tables([table.slice(0, 1), table.slice(1)]).select(table.column_names[::-1]), batch_id="one"
    )
    logs[2].append("s", batch([1, 3]), batch_id="one")
    assert logs[0].data_version() == logs[1].data_version() != logs[2].data_version()
    assert logs[0].data_version(["s"]) == logs[0].data_version(["s", "nothing"]) != logs[0].data_version([])


def test_the_digest_ignores_the_value_under_a_null() -> None:
    one = pa.array([1, 2, 3], mask=np.array([False, True, False]))
    other = pa.array([1, 9, 3], mask=np.array([False, True, False]))
    assert table_digest(pa.table({"x": one})) == table_digest(pa.table({"x": other}))
    texts = [
        pa.table({"x": pa.array(values)}) for values in (["ab", "c"], ["a", "bc"], ["ab", "c", None], ["ab", "c", ""])
    ]
    assert len({table_digest(table) for table in texts}) == 4
    assert table_digest(texts[0].slice(1)) == table_digest(pa.table({"x": ["c"]}))


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        log = EventLog(str(tmp_path))
        for number in range(5):
            log.append("s", batch([number], name=f"{writer}.{number}."), batch_id=f"{writer}.{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    table = EventLog(str(tmp_path)).read("s")
    assert len(set(table.column("name").to_pylist())) == 20
    assert sorted(table.column("ingest_seq").to_pylist()) == list(range(20))


def test_a_writer_that_missed_a_commit_gets_a_conflict(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append("s", batch([1]), batch_id="one", after=0)
    with pytest.raises(ConflictError, match="has 1 commits, not 0"):
        log.append("s", batch([2]), batch_id="two", after=0)
    assert log.read("s").num_rows == 1


def test_a_bad_batch_is_an_error(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append("s", batch([1]), batch_id="one")
    changed = batch([1]).set_column(1, "hour", pa.array(["x"]))
    with pytest.raises(DataError, match=r"s.hour is string in this batch and int64 in the log"):
        log.append("s", changed, batch_id="two")
    with pytest.raises(DataError, match="needs created_time"):
        log.append("s", batch([1]).drop_columns(["created_time"]), batch_id="two")
    with pytest.raises(DataError, match="which the log gives"):
        log.append("s", log.read("s"), batch_id="two")
    with pytest.raises(DataError, match="no column 'hours'; did you mean 'hour'"):
        log.read("s", columns=["hours"])
    assert len(data_files(log)) == 1


def test_a_new_column_is_null_in_older_rows(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append("s", batch([1]), batch_id="one")
    log.append("s", batch([2]).append_column("more", pa.array([1.5])), batch_id="two")
    assert log.read("s").column("more").to_pylist() == [None, 1.5]


def test_a_source_without_events_has_no_rows(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    assert log.read("s").schema.names == ["event_time", "created_time", "ingest_seq"]
    log.append("s", batch([]), batch_id="empty")
    assert log.read("s").num_rows == 0
    assert "name" in log.read("s", window=day(3)).column_names
    assert log.sources() == ["s"]


def test_a_declared_column_can_be_read_before_any_batch_has_it(tmp_path: Path) -> None:
    """A stream may bring one source's events before another's; features are computed anyway."""
    source = shop().sources[0]
    log = EventLog(str(tmp_path), [source])
    first = source.fields[0].name
    assert log.read(source.name, columns=[first, "event_time"]).schema.names == [first, "event_time"]
    with pytest.raises(DataError, match="no column"):
        log.read(source.name, columns=[first + "s"])


CRASHES = """
import sys
import pandas  # which arrow would import in every child
from pathlib import Path
from evermodel.data.events import EventLog
from tests.support.kill_worker import at_each_step
from tests.unit.data.shop import batch, shop

def work(root):
    log = EventLog(root)
    log.append("s", batch([1, 30], name="a"), batch_id="one")
    log.append("s", batch([2], name="b"), batch_id="two")
    log.compact("s")

def check(root):
    table = EventLog(root).read("s")
    assert table.column("name").to_pylist() == ["a0", "b0", "a1"], table
    assert table.column("ingest_seq").to_pylist() == [0, 2, 1]
    print(EventLog(root).data_version(), len(list(Path(root).rglob("*.parquet"))))

at_each_step(sys.argv[1], work, check, reopen=lambda root: EventLog(root).read("s"))
"""


@pytest.mark.process
def test_killed_at_any_durable_step_and_run_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CRASHES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 15, "a kill at every step"
    assert len(set(lines)) == 1, "one version and one file per date, wherever it was killed"
