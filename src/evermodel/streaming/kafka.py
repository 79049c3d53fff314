"""From Kafka's topics into the event log, in batches: the process behind `evermodel ingest-stream`.

What was read is what the log's commits say (`stream`): a partition that is assigned is read from behind them, and the
broker's own offsets are written after each commit only so that tools can show the lag. An error that a new process
wouldn't cure ends this one with a message; all others end it too, or are librdkafka's to try again.
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
from confluent_kafka import Message as Received

from evermodel.errors import EvermodelError, IntegrityError
from evermodel.failpoint import failpoint
from evermodel.streaming.messages import Message, Stream
from evermodel.streaming.metrics import StreamStatus

log = logging.getLogger(__name__)
GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
Place = tuple[str, int]  # topic and partition


@dataclass(frozen=True, kw_only=True)
class BatchSchedule:
    """When a batch is committed and when features follow; whichever of rows and seconds comes first."""

    batch_rows: int = 5000
    batch_seconds: float = 2.0
    refresh_seconds: float = 5.0  # at least between two refreshes of a use case's online features
    poll_seconds: float = 0.2


def consumer(broker: str, group: str) -> Consumer:
    """Nothing is noted as read by itself, and an offset that is gone is an error."""
    settings: dict[str, str | int | float | bool | None] = {
        "bootstrap.servers": broker,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "topic.metadata.refresh.interval.ms": 10_000,  # a topic that is made later is found
        "max.poll.interval.ms": 600_000,  # a refresh of many features is between two polls
    }
    return Consumer(settings)


def until_terminated() -> Event:
    """Set by SIGTERM or SIGINT, as from the kubelet or the keyboard. Of the main thread."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@dataclass
class StreamIngester:
    """One consumer of any number of streams. `refresh` takes a use case's name, after rows of it were committed."""

    consumer: Consumer
    streams: Sequence[Stream]
    refresh: Callable[[str], object]
    clock: Callable[[], datetime]
    status: StreamStatus
    pace: BatchSchedule = field(default_factory=BatchSchedule)
    _waiting: dict[Place, list[Message]] = field(default_factory=dict, init=False)
    _since: float | None = field(default=None, init=False)  # when the oldest that waits came
    _stale: set[str] = field(default_factory=set, init=False)
    _refreshed: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._by_topic = {stream.topic: stream for stream in self.streams}

    def run(self, stop: Event) -> None:
        """Until `stop` is set; then what waits is committed and the group is left."""
        self.consumer.subscribe(
            list(self._by_topic), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        try:
            while not stop.is_set():
                self._take(self.consumer.poll(self.pace.poll_seconds))
                self.status.alive()
                if self._due():
                    self._flush(list(self._waiting))
                self._refresh_stale()
            self._flush(list(self._waiting))
            self._refresh_stale(at_once=True)
        finally:
            self.consumer.close()

    def _take(self, received: Received | None) -> None:
        if received is None:
            return
        error = received.error()
        if error is not None:
            self._judge(error)
            return
        place, offset = (received.topic() or "", received.partition() or 0), received.offset() or 0
        self._waiting.setdefault(place, []).append(Message(offset, received.value()))
        self._since = monotonic() if self._since is None else self._since

    def _judge(self, error: KafkaError) -> None:
        if error.code() in GONE:
            raise IntegrityError(f"{error.str()}: the broker no longer has what follows the log's last commit")
        if error.fatal():
            raise EvermodelError(f"Kafka: {error.str()}")
        log.warning("Kafka: %s", error.str())

    def _due(self) -> bool:
        rows = sum(map(len, self._waiting.values()))
        waited = self._since is not None and monotonic() - self._since >= self.pace.batch_seconds
        return rows >= self.pace.batch_rows or (rows > 0 and waited)

    def _flush(self, places: Sequence[Place]) -> None:
        """Commit what waits of these partitions to the log, then tell the broker."""
        for topic, partition in places:
            messages = self._waiting.pop((topic, partition), [])
            if not messages:
                continue
            stream = self._by_topic[topic]
            report = stream.apply(partition, messages, now=self.clock())
            failpoint("stream.before_offset_commit")
            if report is not None:
                self.status.count(stream.topic, report)
                self._stale |= {stream.use_case.name} if report.applied else set()
            self._note(topic, partition, messages[-1].offset + 1)
        if not self._waiting:
            self._since = None

    def _note(self, topic: str, partition: int, offset: int) -> None:
        """The broker's copy of the offset, and the lag by it; only for people, so that a failure is no more than said."""
        here = TopicPartition(topic, partition, offset)
        try:
            self.consumer.commit(offsets=[here], asynchronous=False)
            _, end = self.consumer.get_watermark_offsets(here, cached=True)
            self.status.lag(topic, partition, max(0, end - offset))
        except KafkaException as error:
            log.warning("offset %d of %s[%d] not noted: %s", offset, topic, partition, error)

    def _refresh_stale(self, *, at_once: bool = False) -> None:
        """Bring online features up to date; what fails is tried again with the next rows or seconds."""
        for name in sorted(self._stale):
            last = self._refreshed.get(name)
            if not at_once and last is not None and monotonic() - last < self.pace.refresh_seconds:
                continue
            try:
                self.refresh(name)
                self._stale.discard(name)
            except (EvermodelError, OSError) as error:
                self.status.refresh_failed(name)
                log.warning("features of %s not refreshed: %s", name, error)
            self._refreshed[name] = monotonic()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            stream = self._by_topic[place.topic]
            known = stream.next_offset(place.partition)
            place.offset = OFFSET_BEGINNING if known is None else known
            if known is not None:  # whoever committed it may have ended before its features were written
                self._stale.add(stream.use_case.name)
            self._waiting.pop((place.topic, place.partition), None)
        consumer.assign(partitions)
        log.info("assigned: %s", ", ".join(f"{p.topic}[{p.partition}] from {p.offset}" for p in partitions))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._flush([(place.topic, place.partition) for place in partitions])

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """They may be another's already: what waits of them is read again by whoever has them."""
        for place in partitions:
            self._waiting.pop((place.topic, place.partition), None)
