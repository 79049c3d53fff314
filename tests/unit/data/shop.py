"""A small shop: visits, and orders that follow them; raw tables of text, as a CSV has them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel.columns import times_array
from evermodel.data.events import DAY
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case

NOW = datetime(2024, 6, 1, tzinfo=UTC)
COLUMNS = ("id", "who", "spent", "stars", "kind", "at", "written")
VISITS = {
    "path": "visits*.csv",
    "created_time": {"field": "written"},
    "unique": ["visit"],
    "lateness": "1h",
    "constants": {"country": "ch"},
}
ORDERED = {"kind": "event", "source": "orders", "match": ["visitor", "kind"]}
SPENT = {"kind": "window", "source": "visits", "entity": "visitor", "aggregate": "sum", "field": "spent"}
SHOP: dict[str, Any] = {
    "entities": {"visitor": "visitor"},
    "source": VISITS,
    "fields": {
        "visit": {"column": "id", "type": "int"},
        "visitor": {"column": "who", "type": "string"},
        "spent": {"min": 0, "max": 100},
        "stars": {"type": "int", "min": 1, "max": 5, "nullable": True},
        "kind": {"type": "string", "values": ["walk", "ride"]},
    },
    "other_sources": {
        "orders": {
            "path": "orders.csv",
            "created_time": {"field": "written"},
            "fields": {
                "visitor": {"type": "string", "nullable": True},
                "kind": "string",
                "price": {},
                "dish": "string",
                "paid": "bool",
            },
        }
    },
    "labels": {
        "ordered": ORDERED,
        "revenue": {**ORDERED, "type": "number", "value": "price"},
        "first_dish": {**ORDERED, "type": "category", "value": "dish"},
        "paid": {**ORDERED, "value": "paid", "positive": True, "delay": "2h"},
        "rode": {"field": "kind", "positive": "ride", "delay": "1d"},
        "what": {"type": "category", "field": "kind", "delay": "1d"},
        "rating": {"type": "number", "field": "stars", "delay": "0s"},
    },
    "features": {"spent": {}, "stars": {}, "spent_sum": {**SPENT, "spans": ["1h", "1d"]}},
    "objectives": {"ordered": "ordered"},
}


@cache
def shop() -> UseCase:
    return make_use_case(**SHOP)


def raw(rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Rows of (id, who, spent, stars, kind, at, written) as text columns."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(values, pa.string()) for values in columns]
    return pa.Table.from_arrays(arrays, names=list(COLUMNS))


def visit(number: int, **cells: str | None) -> tuple[str | None, ...]:
    """A valid row with these `cells` changed; created when it happened."""
    at = cells.get("at") or f"2024-05-{1 + number % 9:02d}T10:00:00Z"
    row = {"id": str(number), "who": "ann", "spent": "7.5", "stars": "3", "kind": "walk", "at": at, "written": at}
    return tuple((row | cells).values())


def batch(times: list[int], *, name: str = "a") -> pa.Table:
    """Events at these hours since 1970."""
    when = times_array(np.array(times, dtype=np.int64) * DAY // 24)
    values = pa.array([f"{name}{index}" for index in range(len(times))], pa.string())
    return pa.table({"name": values, "hour": pa.array(times, pa.int64()), "event_time": when, "created_time": when})
