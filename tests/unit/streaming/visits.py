"""The visits of the shop as messages and as a stream."""

import json

from evermodel.data.events import EventLog
from evermodel.streaming.messages import Stream, streams
from tests.unit.data.shop import COLUMNS, shop, visit

TOPIC = "shop.visits"


def encode_visit(number: int, **cells: str | None) -> bytes:
    return json.dumps(dict(zip(COLUMNS, visit(number, **cells), strict=True))).encode()


def visit_stream(log: EventLog) -> Stream:
    return next(stream for stream in streams(shop(), log) if stream.topic == TOPIC)
