"""Messages of a stream as batches of the event log: JSON values of one partition, in its order, exactly once.

A batch is named `<topic>-<partition>-<first offset>-<last offset>`. The log's commit of that name is the only record of
how far the stream was read, so rows and offset are one write. A reader that restarts seeks behind the last commit and
ignores the broker's offset. This module doesn't depend on Kafka; the module `kafka` moves the messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evermodel.data.events import EventLog
from evermodel.data.ingest import declared, ingest_table
from evermodel.data.readers import MALFORMED
from evermodel.data.validation import raw_column
from evermodel.errors import DataError
from evermodel.records import IngestReport
from evermodel.use_case import Source, UseCase


@dataclass(frozen=True)
class Message:
    """One message of a partition; `value` is None for a tombstone."""

    offset: int
    value: bytes | None


@dataclass(frozen=True)
class Stream:
    """A use case's source as the topic `<use case>.<source>`, and the log that gets its rows."""

    use_case: UseCase
    source: str
    log: EventLog

    @property
    def topic(self) -> str:
        return f"{self.use_case.name}.{self.source}"

    def next_offset(self, partition: int) -> int | None:
        """The first offset that isn't in the log; None if the log has nothing of this partition."""
        name = re.compile(re.escape(f"{self.topic}-{partition}-") + r"\d+-(\d+)")
        matches = (name.fullmatch(commit.batch_id) for commit in self.log.commits(self.source))
        return max((int(match[1]) + 1 for match in matches if match), default=None)

    def apply(self, partition: int, messages: Sequence[Message], *, now: datetime) -> IngestReport | None:
        """Commit the messages of one partition that the log doesn't have yet, in order; None if it has them all.

        The broker's consumer group keeps two readers of a partition apart; this check is only the second defence.
        """
        known = self.next_offset(partition)
        fresh = [message for message in messages if known is None or message.offset >= known]
        if not fresh:
            return None
        table = decode(declared(self.use_case, self.source), (message.value for message in fresh))
        name = f"{self.topic}-{partition}-{fresh[0].offset}-{fresh[-1].offset}"
        return ingest_table(self.use_case, self.source, table, self.log, batch_id=name, now=now)


def streams(use_case: UseCase, log: EventLog) -> list[Stream]:
    """A stream for each source whose rows have times in fields; DataError if there is no such source.

    A source that derives its times from row numbers is a single batch.
    """
    listed = [
        Stream(use_case, source.name, log)
        for source in use_case.sources
        if all(clock is None or clock.field for clock in (source.event_time, source.created_time))
    ]
    if not listed:
        raise DataError(f"{use_case.name}: no source has an event_time with a field, so none can be a stream")
    return listed


def newest_event_time(use_case: UseCase, log: EventLog) -> datetime | None:
    """The latest event time of all sources: the present time of a simulated history. None if there is no event."""
    newest = []
    for source in use_case.sources:
        times = log.read(source.name, columns=["event_time"])["event_time"]
        newest += [pc.max(times).as_py()] if len(times) else []
    return max(newest, default=None)


def raw_columns(source: Source) -> list[str]:
    """The columns of a row before validation, which are the keys of a message."""
    clocks = [clock.field for clock in (source.event_time, source.created_time) if clock is not None and clock.field]
    names = [field.column or field.name for field in source.fields] + [raw_column(source, name) for name in clocks]
    return list(dict.fromkeys(names))


def decode(source: Source, values: Iterable[bytes | None]) -> pa.Table:
    """Values as raw rows with every cell as its text, as in a CSV; validation parses them.

    A missing key is null, an unknown key is ignored. A value that is no JSON object is a malformed row, and is rejected.
    """
    names = raw_columns(source)
    rows = [_row(value) for value in values]
    columns = {name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names}
    return pa.table({**columns, MALFORMED: pa.array([row.get(MALFORMED) for row in rows], pa.string())})


def encode(source: Source, raw: pa.Table) -> list[bytes]:
    """Raw rows as a producer sends them; `decode` reads them back."""
    names = [name for name in raw_columns(source) if name in raw.column_names]
    return [json.dumps(row, default=_encode_time, allow_nan=False).encode() for row in raw.select(names).to_pylist()]


def _row(value: bytes | None) -> dict[str, Any]:
    text = (value or b"").decode(errors="replace")
    try:
        row = json.loads(text, parse_float=str, parse_int=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        row = None
    return {key: cell for key, cell in row.items() if key != MALFORMED} if isinstance(row, dict) else {MALFORMED: text}


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    return json.dumps(cell)  # true or false; a list or an object, which validation rejects


def _encode_time(cell: Any) -> str:
    if isinstance(cell, datetime):
        return cell.isoformat()
    raise DataError(f"{type(cell).__name__} has no JSON form here")
