"""in = applied + duplicate + rejected, for any rows, in any order, however often."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel import storage, use_case
from evermodel.data.events import EventLog, event_schema
from evermodel.data.ingest import ingest, ingest_table
from evermodel.errors import DataError
from evermodel.records import IngestReport
from tests.support import ROOT
from tests.unit.data.shop import NOW, raw, shop, visit

CELLS = {
    "id": st.one_of(st.integers(0, 12).map(str), st.sampled_from(["", "x", "1.5", None])),
    "who": st.sampled_from(["ann", "bob", None]),
    "spent": st.sampled_from(["0", "7.5", "100", "101", "-1", "much", "", None]),
    "stars": st.sampled_from(["1", "5", "6", "", None]),
    "kind": st.sampled_from(["walk", "ride", "swim", None]),
    "at": st.sampled_from(["2024-05-01T00:00:00Z", "2024-05-02 03:00:00", "never", None]),
    "written": st.sampled_from(["2024-05-01T00:00:00Z", "2024-05-03T00:00:00Z", "never", None]),
}
ROWS = st.lists(st.fixed_dictionaries(CELLS).map(lambda row: tuple(row.values())), max_size=12)


def put(log: EventLog, rows: list[tuple[str | None, ...]], batch_id: str) -> IngestReport:
    return ingest_table(shop(), "visits", raw(rows), log, batch_id=batch_id, now=NOW)


@settings(max_examples=15, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_every_row_is_applied_a_duplicate_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str | None, ...]]]
) -> None:
    log = EventLog(str(tmp_path_factory.mktemp("log")))
    applied = 0
    for number, rows in enumerate(batches):
        report = put(log, rows, str(number))
        assert report.rows_in == len(rows) == report.applied + report.duplicate + report.rejected
        assert sum(report.reject_reasons.values()) == report.rejected
        kept = storage.read_table(report.rejects_uri).num_rows if report.rejects_uri else 0
        assert kept == report.rejected
        again = put(log, rows, str(number))
        assert (again.applied, again.duplicate, again.rejected) == (0, len(rows), 0)
        assert again.data_version == report.data_version
        applied += report.applied
    table = log.read("visits")
    assert table.num_rows == applied
    if applied:
        visits = table.column("visit").to_pylist()
        assert len(visits) == len(set(visits)), "one row per key, over all batches"


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_order_and_batching_of_arrival_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], size: int
) -> None:
    log = EventLog(str(tmp_path_factory.mktemp("log")))
    rows = [visit(number) for number in order]
    for start in range(0, len(rows), size):
        put(log, rows[start : start + size], str(start))
    table = log.read("visits").drop_columns(["ingest_seq"])
    straight = EventLog(str(tmp_path_factory.mktemp("log")))
    put(straight, [visit(number) for number in range(12)], "all")
    expected = straight.read("visits").drop_columns(["ingest_seq"])
    keys = [("event_time", "ascending"), ("visit", "ascending")]
    assert table.sort_by(keys).equals(expected.sort_by(keys))
    assert table.column("event_time").to_pylist() == expected.column("event_time").to_pylist()


def test_a_repeat_is_a_duplicate_within_a_batch_and_across(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    first = put(log, [visit(1, spent="1"), visit(1, spent="2"), visit(2)], "one")
    assert (first.applied, first.duplicate) == (2, 1)
    second = put(log, [visit(2, spent="9"), visit(3)], "two")
    assert (second.applied, second.duplicate) == (1, 1)
    assert sorted(log.read("visits", columns=["visit", "spent"]).to_pydict()["spent"]) == [1.0, 7.5, 7.5]


def test_late_rows_are_applied_and_counted(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    rows = [
        visit(1, at="2024-05-01T00:00:00Z", written="2024-05-01T01:00:00Z"),  # as late as the source allows
        visit(2, at="2024-05-01T00:00:00Z", written="2024-05-01T01:00:01Z"),
    ]
    report = put(log, rows, "one")
    assert (report.applied, report.late) == (2, 1)


def test_rejects_are_where_the_report_says(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"))
    table = raw([visit(1), visit(2, kind="swim")])
    report = ingest_table(
        shop(), "visits", table, log, batch_id="a/b c", now=NOW, rejects_root=str(tmp_path / "rejects")
    )
    assert report.reject_reasons == {"kind: not an allowed value": 1}
    assert report.rejects_uri is not None
    assert Path(report.rejects_uri).parent == tmp_path / "rejects" / "visits"
    assert storage.read_table(report.rejects_uri).to_pylist() == [
        {"row": 1, "field": "kind", "reason": "not an allowed value", "value": "swim"}
    ]
    assert log.sources() == ["visits"]


def test_a_bad_source_changes_nothing(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"))
    with pytest.raises(DataError, match="did you mean 'visits'"):
        ingest_table(shop(), "visit", raw([visit(1)]), log, batch_id="one", now=NOW)
    with pytest.raises(DataError, match="no column 'spent'"):
        ingest_table(shop(), "visits", raw([visit(1)]).drop_columns(["spent"]), log, batch_id="one", now=NOW)
    assert not (tmp_path / "log").exists()


def test_files_are_a_batch_named_by_their_content(tmp_path: Path) -> None:
    text = "id,who,spent,stars,kind,at,written\n1,ann,1,,walk,2024-05-01,2024-05-01\n"
    (tmp_path / "visits1.csv").write_text(text)
    log = EventLog(str(tmp_path / "log"))
    first = ingest(shop(), "visits", log, data_dir=tmp_path, now=NOW)
    assert (first.applied, first.duplicate) == (1, 0)
    assert ingest(shop(), "visits", log, data_dir=tmp_path, now=NOW).batch_id == first.batch_id
    (tmp_path / "visits2.csv").write_text(
        text + "2,bob,,,ride,2024-05-01,2024-05-01\n3,bob,2,,ride,2024-05-01,2024-05-01"
    )
    grown = ingest(shop(), "visits", log, data_dir=tmp_path, now=NOW)
    assert (grown.rows_in, grown.applied, grown.duplicate, grown.rejected) == (4, 1, 2, 1)
    assert log.read("visits").schema == event_schema(shop().source("visits"))
    assert log.commits("visits")[0].at == NOW


def test_writers_at_once_apply_each_key_once(tmp_path: Path) -> None:
    def write(writer: int) -> int:
        rows = [visit(number) for number in range(writer * 5, writer * 5 + 20)]
        return put(EventLog(str(tmp_path)), rows, f"batch {writer}").applied

    with ThreadPoolExecutor(4) as pool:
        applied = sum(pool.map(write, range(4)))
    assert applied == 35
    assert sorted(EventLog(str(tmp_path)).read("visits").column("visit").to_pylist()) == list(range(35))


CRASHES = """
import sys
import pandas  # which arrow would import in every child
from tests.support.kill_worker import at_each_step
from tests.unit.data.shop import NOW, raw, shop, visit
from evermodel import storage
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table

def work(root):
    rows = [visit(1), visit(10, spent="-1"), visit(1), visit(19)]
    report = ingest_table(shop(), "visits", raw(rows), EventLog(root), batch_id="one", now=NOW)
    assert report.duplicate == (4 if report.applied == 0 else 1)

def check(root):
    assert sorted(EventLog(root).read("visits").column("visit").to_pylist()) == [1, 19]
    rejects = storage.list_files(root + "/_rejects", suffix=".parquet")
    assert [storage.read_table(path).num_rows for path in rejects] == [1]

print(at_each_step(sys.argv[1], work, check))
"""


@pytest.mark.process
def test_killed_at_any_durable_step_a_batch_is_whole_after_the_next_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CRASHES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 7, "a kill at every step"


def test_all_of_fraud(shared_data: Path, fraud: use_case.UseCase, tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    report = ingest(fraud, "transactions", log, data_dir=shared_data, now=NOW)
    assert (report.rows_in, report.applied, report.rejected) == (498_242, 498_242, 0)
    table = log.read("transactions", columns=["transaction", "fraud", "event_time"])
    assert table.num_rows == 498_242
    assert str(table.column("event_time")[0]) == "2018-06-17 00:00:51+00:00"
