"""From Kafka's topics into the event log, in batches: the process of `evermodel ingest-stream`.

The log's commits state what was read (see `messages`): an assigned partition is read from the offset behind them. The
broker's own offsets are written after each commit, only for tools that show the lag. librdkafka retries transient
errors; all other errors end the process.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from time import monotonic

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage

from evermodel.errors import EvermodelError, IntegrityError
from evermodel.failpoint import failpoint
from evermodel.streaming.messages import Message, Stream
from evermodel.streaming.metrics import StreamStatus

log = logging.getLogger(__name__)
OFFSET_GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
Partition = tuple[str, int]  # topic, number


@dataclass(frozen=True, kw_only=True)
class BatchSchedule:
    """When a batch is committed (after so many rows or seconds, whichever is first) and features are refreshed."""

    batch_rows: int = 5000
    batch_seconds: float = 2.0
    refresh_seconds: float = 5.0  # minimum between two refreshes of a use case's online features
    poll_seconds: float = 0.2


def connect(broker: str, group: str) -> Consumer:
    """A consumer that commits no offsets by itself, and reports a missing offset as an error."""
    settings: dict[str, str | int | float | bool | None] = {
        "bootstrap.servers": broker,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "topic.metadata.refresh.interval.ms": 10_000,  # so that a new topic is found
        "max.poll.interval.ms": 600_000,  # a refresh of many features takes place between two polls
    }
    return Consumer(settings)


def stop_on_signal() -> Event:
    """An event that SIGTERM and SIGINT set (from the kubelet or the keyboard). For the main thread."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@dataclass
class StreamIngester:
    """One consumer of any number of streams; calls `refresh(use case name)` after commits of its rows."""

    consumer: Consumer
    streams: Sequence[Stream]
    refresh: Callable[[str], object]
    clock: Callable[[], datetime]
    status: StreamStatus
    schedule: BatchSchedule = field(default_factory=BatchSchedule)
    _pending: dict[Partition, list[Message]] = field(default_factory=dict, init=False)
    _oldest: float | None = field(default=None, init=False)  # arrival of the oldest pending message
    _stale: set[str] = field(default_factory=set, init=False)
    _refreshed: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._by_topic = {stream.topic: stream for stream in self.streams}

    def run(self, stop: Event) -> None:
        """Run until `stop` is set; then commit the pending messages and leave the group."""
        self.consumer.subscribe(
            list(self._by_topic), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        try:
            while not stop.is_set():
                self._add(self.consumer.poll(self.schedule.poll_seconds))
                self.status.mark_alive()
                if self._is_due():
                    self._flush(list(self._pending))
                self._refresh_stale()
            self._flush(list(self._pending))
            self._refresh_stale(at_once=True)
        finally:
            self.consumer.close()

    def _add(self, received: KafkaMessage | None) -> None:
        if received is None:
            return
        error = received.error()
        if error is not None:
            self._handle_error(error)
            return
        partition, offset = (received.topic() or "", received.partition() or 0), received.offset() or 0
        self._pending.setdefault(partition, []).append(Message(offset, received.value()))
        self._oldest = monotonic() if self._oldest is None else self._oldest

    def _handle_error(self, error: KafkaError) -> None:
        if error.code() in OFFSET_GONE:
            raise IntegrityError(f"{error.str()}: the broker no longer has the message after the log's last commit")
        if error.fatal():
            raise EvermodelError(f"Kafka: {error.str()}")
        log.warning("Kafka: %s", error.str())

    def _is_due(self) -> bool:
        rows = sum(map(len, self._pending.values()))
        waited = self._oldest is not None and monotonic() - self._oldest >= self.schedule.batch_seconds
        return rows >= self.schedule.batch_rows or (rows > 0 and waited)

    def _flush(self, partitions: Sequence[Partition]) -> None:
        """Commit the pending messages of these partitions to the log, then their offsets to the broker."""
        for topic, partition in partitions:
            messages = self._pending.pop((topic, partition), [])
            if not messages:
                continue
            stream = self._by_topic[topic]
            report = stream.apply(partition, messages, now=self.clock())
            failpoint("stream.before_offset_commit")
            if report is not None:
                self.status.count_batch(stream.topic, report)
                self._stale |= {stream.use_case.name} if report.applied else set()
            self._commit_offset(topic, partition, messages[-1].offset + 1)
        if not self._pending:
            self._oldest = None

    def _commit_offset(self, topic: str, partition: int, offset: int) -> None:
        """Commit the offset to the broker and measure the lag. Both are only for tools, so a failure is only logged."""
        position = TopicPartition(topic, partition, offset)
        try:
            self.consumer.commit(offsets=[position], asynchronous=False)
            _, end = self.consumer.get_watermark_offsets(position, cached=True)
            self.status.set_lag(topic, partition, max(0, end - offset))
        except KafkaException as error:
            log.warning("offset %d of %s[%d] not committed: %s", offset, topic, partition, error)

    def _refresh_stale(self, *, at_once: bool = False) -> None:
        """Refresh the online features of use cases with new rows; a failed refresh is repeated later."""
        for name in sorted(self._stale):
            last = self._refreshed.get(name)
            if not at_once and last is not None and monotonic() - last < self.schedule.refresh_seconds:
                continue
            try:
                self.refresh(name)
                self._stale.discard(name)
            except (EvermodelError, OSError) as error:
                self.status.count_failed_refresh(name)
                log.warning("features of %s not refreshed: %s", name, error)
            self._refreshed[name] = monotonic()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            stream = self._by_topic[partition.topic]
            known = stream.next_offset(partition.partition)
            partition.offset = OFFSET_BEGINNING if known is None else known
            if known is not None:  # its last reader may have stopped before it refreshed the features
                self._stale.add(stream.use_case.name)
            self._pending.pop((partition.topic, partition.partition), None)
        consumer.assign(partitions)
        log.info("assigned: %s", ", ".join(f"{p.topic}[{p.partition}] from {p.offset}" for p in partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._flush([(partition.topic, partition.partition) for partition in partitions])

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Drop the pending messages: another reader may have these partitions already, and reads them again."""
        for partition in partitions:
            self._pending.pop((partition.topic, partition.partition), None)
