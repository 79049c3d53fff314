"""A little shop: visits that are answered, orders that follow them; raw tables as text, as a CSV gives them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel import use_case
from evermodel.data.events import DAY
from evermodel.data.tables import times_array

NOW = datetime(2024, 6, 1, tzinfo=UTC)
COLUMNS = ("id", "who", "spent", "stars", "kind", "at", "written")
FILE = """
name: shop
framing: binary
entities: [{name: visitor, key: visitor}]
sources:
  - name: visits
    reader: csv
    path: visits*.csv
    event_time: {field: at}
    created_time: {field: written}
    unique: [visit]
    lateness: 1h
    constants: {country: ch}
    fields:
      - {name: visit, column: id, type: int}
      - {name: visitor, column: who, type: string}
      - {name: spent, min: 0, max: 100}
      - {name: stars, type: int, min: 1, max: 5, nullable: true}
      - {name: kind, type: string, values: [walk, ride]}
  - name: orders
    reader: csv
    path: orders.csv
    event_time: {field: at}
    created_time: {field: written}
    fields:
      - {name: visitor, type: string, nullable: true}
      - {name: kind, type: string}
      - {name: price}
      - {name: dish, type: string}
      - {name: paid, type: bool}
predict: {source: visits}
labels:
  - {name: ordered, kind: event, source: orders, match: [visitor, kind], delay: 1h}
  - {name: revenue, kind: event, type: number, source: orders, match: [visitor, kind], value: price, delay: 1h}
  - {name: first_dish, kind: event, type: category, source: orders, match: [visitor, kind], value: dish, delay: 1h}
  - {name: paid, kind: event, source: orders, match: [visitor, kind], value: paid, positive: true, delay: 2h}
  - {name: rode, kind: column, field: kind, positive: ride, delay: 1d}
  - {name: what, kind: column, type: category, field: kind, delay: 1d}
  - {name: rating, kind: column, type: number, field: stars, delay: 0s}
features:
  - {name: spent, kind: column}
  - {name: stars, kind: column}
  - {name: spent_sum, kind: window, source: visits, entity: visitor, aggregate: sum, field: spent, spans: [1h, 1d]}
objectives: [{name: ordered, label: ordered}]
evaluation: {metric: auc}
monitoring: {window: 1d}
"""


def shop() -> use_case.UseCase:
    return use_case.parse(FILE, name="shop.yaml")


def raw(rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Rows of (id, who, spent, stars, kind, at, written) as text columns."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(values, pa.string()) for values in columns]
    return pa.Table.from_arrays(arrays, names=list(COLUMNS))


def visit(number: int, **cells: str | None) -> tuple[str | None, ...]:
    """A good row, but for `cells`; written when it happened."""
    at = cells.get("at") or f"2024-05-{1 + number % 9:02d}T10:00:00Z"
    row = {"id": str(number), "who": "ann", "spent": "7.5", "stars": "3", "kind": "walk", "at": at, "written": at}
    return tuple((row | cells).values())


def batch(times: list[int], *, name: str = "a") -> pa.Table:
    """Events at these hours since 1970."""
    when = times_array(np.array(times, dtype=np.int64) * DAY // 24)
    values = pa.array([f"{name}{index}" for index in range(len(times))], pa.string())
    return pa.table({"name": values, "hour": pa.array(times, pa.int64()), "event_time": when, "created_time": when})
