"""Messages become event-log batches exactly once, and read like the rows of a file."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table
from evermodel.errors import DataError
from evermodel.streaming.messages import Message, decode, encode, newest_event_time, raw_columns, streams
from tests.support.use_cases import make_use_case
from tests.unit.data.shop import NOW, SHOP, VISITS, raw, shop, visit
from tests.unit.streaming.visits import TOPIC, encode_visit, visit_stream


def test_messages_read_again_from_the_start_are_not_applied_again(tmp_path: Path) -> None:
    stream = visit_stream(EventLog(str(tmp_path)))
    messages = [Message(offset, encode_visit(offset)) for offset in range(5)]
    first = stream.apply(0, messages[:3], now=NOW)
    assert first is not None and first.applied == 3 and first.batch_id == f"{TOPIC}-0-0-2"
    assert stream.apply(0, messages[:3], now=NOW) is None
    rest = stream.apply(0, messages, now=NOW)
    assert rest is not None and rest.applied == 2 and rest.batch_id == f"{TOPIC}-0-3-4"
    assert (stream.next_offset(0), stream.next_offset(1)) == (5, None)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_decoded_messages_equal_the_rows_of_a_file(numbers: list[float]) -> None:
    source = shop().source("visits")
    table = raw([visit(index, spent=repr(number)) for index, number in enumerate(numbers)])
    assert decode(source, encode(source, table)).select(raw_columns(source)).to_pydict() == table.to_pydict()
    sent = [json.dumps({"spent": number, "stars": 3, "who": None}).encode() for number in numbers]
    read = decode(source, sent)
    assert [float(text) for text in read["spent"].to_pylist()] == numbers
    assert read["stars"].to_pylist() == ["3"] * len(numbers) and read["id"].null_count == len(numbers)


def test_a_file_and_a_stream_with_the_same_rows_write_the_same_events(tmp_path: Path) -> None:
    table = raw([visit(number) for number in range(20)])
    filed, streamed = EventLog(str(tmp_path / "file")), EventLog(str(tmp_path / "stream"))
    ingest_table(shop(), "visits", table, filed, batch_id="file", now=NOW)
    values = encode(shop().source("visits"), table)
    for start in (0, 8):
        stop = (8, 20)[start > 0]
        messages = [Message(offset, values[offset]) for offset in range(start, stop)]
        visit_stream(streamed).apply(0, messages, now=NOW)
    assert streamed.read("visits").equals(filed.read("visits"))
    assert newest_event_time(shop(), streamed) == max(streamed.read("visits")["event_time"].to_pylist())
    assert newest_event_time(shop(), EventLog(str(tmp_path / "none"))) is None


def test_a_source_without_time_fields_is_no_stream(tmp_path: Path) -> None:
    row_number = {"row_number": {"start": "2024-01-01T00:00:00Z", "step": "1h"}}
    given = {"event_time": row_number, "created_time": None}
    orders = SHOP["other_sources"]["orders"]
    changes = {"source": VISITS | given, "other_sources": {"orders": orders | given}}
    with pytest.raises(DataError, match="event_time"):
        streams(make_use_case(**SHOP | changes), EventLog(str(tmp_path)))
