"""Messages of a Kafka topic reach the event log exactly once, or the rejects with a reason, even after a crash."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from evermodel import storage
from evermodel.data.events import EventLog
from evermodel.errors import FeatureStoreError, IntegrityError
from evermodel.streaming.messages import Message
from evermodel.streaming.metrics import StreamStatus
from tests.support import ROOT
from tests.support.waiting import scaled, wait_until
from tests.unit.data.shop import NOW
from tests.unit.streaming.visits import TOPIC, encode_visit, visit_stream

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra `kafka` is not installed")

from evermodel.streaming import kafka  # noqa: E402

pytestmark = pytest.mark.server  # a broker

SCHEDULE = kafka.BatchSchedule(batch_rows=7, batch_seconds=0.2, refresh_seconds=0.0, poll_seconds=0.05)
#: Reads the visits until it is killed.
PROGRAM = """
import sys
from threading import Event
from evermodel.data.events import EventLog
from evermodel.streaming import kafka
from evermodel.streaming.metrics import StreamStatus
from tests.unit.data.shop import NOW
from tests.unit.streaming.visits import visit_stream
schedule = kafka.BatchSchedule(batch_rows=7, batch_seconds=0.2, poll_seconds=0.05)
consumer, stream = kafka.connect(sys.argv[1], "c"), visit_stream(EventLog(sys.argv[2]))
kafka.StreamIngester(consumer, [stream], str, lambda: NOW, StreamStatus(), schedule).run(Event())
"""


class Broker:
    """librdkafka's mock cluster in this process; its producer holds the cluster."""

    def __init__(self) -> None:
        self._producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
        nodes = self._producer.list_topics(timeout=10).brokers.values()
        self.address = ",".join(f"{node.host}:{node.port}" for node in nodes)

    def send(self, *values: bytes | None) -> None:
        for number, value in enumerate(values):
            self._producer.produce(TOPIC, value, partition=number % 2)
        assert self._producer.flush(10) == 0


@pytest.fixture
def broker() -> Iterator[Broker]:
    yield Broker()


def read_visits(log: EventLog) -> list[int]:
    events = EventLog(log.root).read("visits")  # another reader than the ingester's thread
    return sorted(events["visit"].to_pylist()) if events.num_rows else []


def ingest_until(
    broker: Broker,
    log: EventLog,
    condition: Callable[[], bool],
    *,
    group: str = "a",
    refresh: Callable[[str], object] = str,
) -> StreamStatus:
    """Ingest in a thread until the condition holds; an error that ends the thread is raised here."""
    status, stop, failures = StreamStatus(), Event(), list[BaseException]()
    consumer = kafka.connect(broker.address, group)
    ingester = kafka.StreamIngester(consumer, [visit_stream(log)], refresh, lambda: NOW, status, SCHEDULE)

    def run() -> None:
        try:
            ingester.run(stop)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: condition() or not thread.is_alive(), 30, "the condition")
    finally:
        stop.set()
        thread.join(scaled(30))
    if failures:
        raise failures[0]
    assert condition()
    return status


def test_exactly_the_rows_that_were_produced_are_in_the_log_and_a_restart_adds_none(
    broker: Broker, tmp_path: Path
) -> None:
    log = EventLog(str(tmp_path))
    broker.send(*(encode_visit(number) for number in range(30)))
    ingest_until(broker, log, lambda: len(read_visits(log)) >= 30)
    assert read_visits(log) == list(range(30))
    broker.send(*(encode_visit(number) for number in range(30, 41)))
    # another group has no offsets at the broker: only the log says what was read
    ingest_until(broker, EventLog(str(tmp_path)), lambda: len(read_visits(log)) >= 41, group="b")
    assert read_visits(log) == list(range(41))
    assert {name.rsplit("-", 2)[0] for name in (c.batch_id for c in log.commits("visits"))} == {
        f"{TOPIC}-0",
        f"{TOPIC}-1",
    }


def test_bad_rows_are_rejects_that_keep_their_reason(broker: Broker, tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    broker.send(
        encode_visit(0), encode_visit(1, spent="much"), b"{not json", None, b"[1]", b'{"id": NaN}', encode_visit(2)
    )

    def is_complete() -> bool:
        return sum(visit_stream(EventLog(log.root)).next_offset(partition) or 0 for partition in (0, 1)) == 7

    status = ingest_until(broker, log, is_complete)
    assert read_visits(log) == [0, 2]
    tables = [storage.read_table(uri) for uri in storage.list_files(tmp_path / "_rejects", suffix=".parquet")]
    rejected = sorted((row["field"], row["value"]) for table in tables for row in table.to_pylist())
    assert rejected == [("row", ""), ("row", "[1]"), ("row", '{"id": NaN}'), ("row", "{not json"), ("spent", "much")]
    assert status.registry.get_sample_value(
        "evermodel_stream_rows_total", {"topic": TOPIC, "outcome": "rejected"}
    ) == len(rejected)


@pytest.mark.process
def test_a_kill_between_the_commits_of_log_and_broker_loses_and_repeats_nothing(broker: Broker, tmp_path: Path) -> None:
    broker.send(*(encode_visit(number) for number in range(40)))
    log = EventLog(str(tmp_path))
    died = subprocess.run(
        [sys.executable, "-c", PROGRAM, broker.address, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "EVERMODEL_FAILPOINT": "stream.before_offset_commit:2"},
        timeout=scaled(60),
        check=False,
    )
    assert died.returncode == -9
    committed = len(read_visits(log))
    assert 0 < committed < 40
    ingest_until(broker, log, lambda: len(read_visits(log)) >= 40, group="d")
    assert read_visits(log) == list(range(40))


def test_an_offset_that_the_broker_no_longer_has_is_an_error(broker: Broker, tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    broker.send(encode_visit(0), encode_visit(1))
    for partition in (0, 1):
        visit_stream(log).apply(partition, [Message(1000, encode_visit(7 + partition))], now=NOW)
    with pytest.raises(IntegrityError, match="no longer has"):
        ingest_until(broker, log, lambda: False)
    assert read_visits(log) == [7, 8]


def test_a_failed_refresh_is_repeated_and_does_not_stop_ingestion(broker: Broker, tmp_path: Path) -> None:
    log, refreshed = EventLog(str(tmp_path)), list[str]()

    def refresh(name: str) -> None:
        refreshed.append(name)
        if len(refreshed) == 1:
            raise FeatureStoreError("down")

    broker.send(*(encode_visit(number) for number in range(10)))
    status = ingest_until(broker, log, lambda: len(read_visits(log)) == 10 and len(refreshed) >= 2, refresh=refresh)
    assert set(refreshed) == {"shop"}
    assert status.registry.get_sample_value("evermodel_stream_refresh_failures_total", {"use_case": "shop"}) == 1
