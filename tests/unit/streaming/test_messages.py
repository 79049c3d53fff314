"""What is produced is in the event log once, whatever dies in between, or among the rejects with a reason."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel import storage
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table
from evermodel.errors import DataError, FeatureStoreError, IntegrityError
from evermodel.streaming.messages import Message, Stream, decode, encode, newest_event, raw_columns, streams
from evermodel.streaming.metrics import StreamStatus
from tests.support import ROOT
from tests.support.use_cases import make_use_case
from tests.unit.data.shop import COLUMNS, NOW, SHOP, VISITS, raw, shop, visit

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra `kafka` is not installed")

from evermodel.streaming import kafka  # noqa: E402

TOPIC = "shop.visits"
PACE = kafka.BatchSchedule(batch_rows=7, batch_seconds=0.2, refresh_seconds=0.0, poll_seconds=0.05)


def value(number: int, **cells: str | None) -> bytes:
    row = dict(zip(COLUMNS, visit(number, **cells), strict=True))
    return json.dumps(row).encode()


class Broker:
    """librdkafka's own mock cluster, in this process; the producer that holds it sends, too."""

    def __init__(self) -> None:
        self._producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
        nodes = self._producer.list_topics(timeout=10).brokers.values()
        self.address = ",".join(f"{node.host}:{node.port}" for node in nodes)

    def send(self, *values: bytes | None) -> None:
        for number, sent in enumerate(values):
            self._producer.produce(TOPIC, sent, partition=number % 2)
        assert self._producer.flush(10) == 0


@pytest.fixture
def broker() -> Iterator[Broker]:
    yield Broker()


def visits(log: EventLog) -> Stream:
    return next(stream for stream in streams(shop(), log) if stream.topic == TOPIC)


def ingested(log: EventLog) -> list[int]:
    events = EventLog(log.root).read("visits")  # another reader than the ingester's thread
    return sorted(events["visit"].to_pylist()) if events.num_rows else []


def live(
    broker: Broker,
    log: EventLog,
    until: Callable[[], bool],
    *,
    group: str = "a",
    refresh: Callable[[str], object] = str,
    status: StreamStatus | None = None,
) -> StreamStatus:
    """Ingest in a thread until a condition holds; what ended the thread is raised here."""
    status = status or StreamStatus()
    ingester = kafka.StreamIngester(
        kafka.consumer(broker.address, group), [visits(log)], refresh, lambda: NOW, status, PACE
    )
    stop = Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            ingester.run(stop)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 30
    try:
        while thread.is_alive() and not until() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join(30)
    if failures:
        raise failures[0]
    assert until(), "not within 30 s"
    return status


def test_exactly_the_rows_that_were_produced_are_in_the_log_and_a_restart_adds_none(
    broker: Broker, tmp_path: Path
) -> None:
    log = EventLog(str(tmp_path))
    broker.send(*(value(number) for number in range(30)))
    live(broker, log, lambda: len(ingested(log)) >= 30)
    assert ingested(log) == list(range(30))
    broker.send(*(value(number) for number in range(30, 41)))
    # another group has no offsets at the broker: only the log says what was read
    live(broker, EventLog(str(tmp_path)), lambda: len(ingested(log)) >= 41, group="b")
    assert ingested(log) == list(range(41))
    assert {name.rsplit("-", 2)[0] for name in (c.batch_id for c in log.commits("visits"))} == {
        f"{TOPIC}-0",
        f"{TOPIC}-1",
    }


def test_bad_rows_are_rejects_that_keep_their_reason(broker: Broker, tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    broker.send(value(0), value(1, spent="much"), b"{not json", None, b"[1]", b'{"id": NaN}', value(2))

    def settled() -> bool:
        return sum(visits(EventLog(log.root)).next_offset(partition) or 0 for partition in (0, 1)) == 7

    status = live(broker, log, settled)
    assert ingested(log) == [0, 2]
    tables = [storage.read_table(uri) for uri in storage.list_files(tmp_path / "_rejects", suffix=".parquet")]
    rejected = sorted((row["field"], row["value"]) for table in tables for row in table.to_pylist())
    assert rejected == [("row", ""), ("row", "[1]"), ("row", '{"id": NaN}'), ("row", "{not json"), ("spent", "much")]
    assert status.registry.get_sample_value(
        "evermodel_stream_rows_total", {"topic": TOPIC, "outcome": "rejected"}
    ) == len(rejected)


def test_killed_between_the_logs_commit_and_the_brokers_nothing_is_lost_or_twice(
    broker: Broker, tmp_path: Path
) -> None:
    broker.send(*(value(number) for number in range(40)))
    log = EventLog(str(tmp_path))
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from threading import Event
from tests.unit.data.shop import NOW, shop
from evermodel.streaming import kafka
from evermodel.data.events import EventLog
from evermodel.streaming.messages import streams
from evermodel.streaming.metrics import StreamStatus
found = [stream for stream in streams(shop(), EventLog(sys.argv[2])) if stream.source == "visits"]
pace = kafka.Pace(batch_rows=7, batch_seconds=0.2, poll_seconds=0.05)
kafka.StreamIngester(kafka.consumer(sys.argv[1], "c"), found, str, lambda: NOW, StreamStatus(), pace).run(Event())
"""
    died = subprocess.run(
        [sys.executable, "-c", code, broker.address, str(tmp_path), str(ROOT)],
        env={**os.environ, "EVERMODEL_FAILPOINT": "stream.before_offset_commit:2"},
        timeout=60,
        check=False,
    )
    assert died.returncode == -9
    taken = len(ingested(log))
    assert 0 < taken < 40
    live(broker, log, lambda: len(ingested(log)) >= 40, group="d")
    assert ingested(log) == list(range(40))


def test_a_replay_from_the_start_is_not_applied_again(tmp_path: Path) -> None:
    stream = visits(EventLog(str(tmp_path)))
    messages = [Message(offset, value(offset)) for offset in range(5)]
    first = stream.apply(0, messages[:3], now=NOW)
    assert first is not None and first.applied == 3 and first.batch_id == f"{TOPIC}-0-0-2"
    assert stream.apply(0, messages[:3], now=NOW) is None
    rest = stream.apply(0, messages, now=NOW)
    assert rest is not None and rest.applied == 2 and rest.batch_id == f"{TOPIC}-0-3-4"
    assert (stream.next_offset(0), stream.next_offset(1)) == (5, None)


def test_an_offset_that_the_broker_no_longer_has_is_an_error(broker: Broker, tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    broker.send(value(0), value(1))
    for partition in (0, 1):
        visits(log).apply(partition, [Message(1000, value(7 + partition))], now=NOW)
    with pytest.raises(IntegrityError, match="no longer has"):
        live(broker, log, lambda: False)
    assert ingested(log) == [7, 8]


def test_features_that_fail_to_refresh_are_tried_again_and_rows_go_on(broker: Broker, tmp_path: Path) -> None:
    log, asked = EventLog(str(tmp_path)), list[str]()

    def refresh(name: str) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise FeatureStoreError("down")

    broker.send(*(value(number) for number in range(10)))
    status = live(broker, log, lambda: len(ingested(log)) == 10 and len(asked) >= 2, refresh=refresh)
    assert set(asked) == {"shop"}
    assert status.registry.get_sample_value("evermodel_stream_refresh_failures_total", {"use_case": "shop"}) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_what_is_sent_is_what_a_file_would_have_said(numbers: list[float]) -> None:
    source = shop().source("visits")
    table = raw([visit(index, spent=repr(number)) for index, number in enumerate(numbers)])
    assert decode(source, encode(source, table)).select(raw_columns(source)).to_pydict() == table.to_pydict()
    sent = [json.dumps({"spent": number, "stars": 3, "who": None}).encode() for number in numbers]
    read = decode(source, sent)
    assert [float(text) for text in read["spent"].to_pylist()] == numbers
    assert read["stars"].to_pylist() == ["3"] * len(numbers) and read["id"].null_count == len(numbers)


def test_a_file_and_a_stream_of_the_same_rows_leave_the_same_events(tmp_path: Path) -> None:
    table = raw([visit(number) for number in range(20)])
    filed, streamed = EventLog(str(tmp_path / "file")), EventLog(str(tmp_path / "stream"))
    ingest_table(shop(), "visits", table, filed, batch_id="file", now=NOW)
    values = encode(shop().source("visits"), table)
    for start in (0, 8):
        stop = (8, 20)[start > 0]
        messages = [Message(offset, values[offset]) for offset in range(start, stop)]
        visits(streamed).apply(0, messages, now=NOW)
    assert streamed.read("visits").equals(filed.read("visits"))
    assert newest_event(shop(), streamed) == max(streamed.read("visits")["event_time"].to_pylist())
    assert newest_event(shop(), EventLog(str(tmp_path / "none"))) is None


def test_a_source_without_times_of_its_own_is_no_stream(tmp_path: Path) -> None:
    row_number = {"row_number": {"start": "2024-01-01T00:00:00Z", "step": "1h"}}
    given = {"event_time": row_number, "created_time": None}
    orders = SHOP["other_sources"]["orders"]
    changes = {"source": VISITS | given, "other_sources": {"orders": orders | given}}
    with pytest.raises(DataError, match="event_time"):
        streams(make_use_case(**SHOP | changes), EventLog(str(tmp_path)))


def test_health_and_metrics_answer_over_http() -> None:
    status = StreamStatus(silence_s=0.2)
    with status.serve("127.0.0.1", 0) as port:
        status.lag(TOPIC, 1, 12)
        assert b'evermodel_stream_lag_rows{partition="1",topic="shop.visits"} 12.0' in get(port, "/metrics")
        status.alive()
        assert get(port, "/healthz") == b"ok\n"
        time.sleep(0.25)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(port, "/healthz")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/else")


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
        return body
