"""Small use cases and models for the tests of serving: scores that can be worked out by hand."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from evermodel.records import BundleRef, Release
from evermodel.use_case import UseCase, parse

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)

SHOP = """
name: shop
framing: ranking
entities:
  - {name: user, key: user_id}
  - {name: item, key: item_id}
sources:
  - name: views
    reader: parquet
    event_time: {field: at}
    constants: {country: nl}
    fields:
      - {name: request, type: string}
      - {name: user_id, type: string}
      - {name: item_id, type: string}
      - {name: position, type: int, min: 1, max: 9}
      - {name: price, type: float, min: 0, max: 100, unit: EUR}
      - {name: stars, type: float, min: 0, max: 5, nullable: true}
      - {name: device, type: string, values: [web, app]}
      - {name: since, type: timestamp, nullable: true}
predict: {source: views, group: request, item: item_id, position: position}
labels:
  - {name: bought, kind: event, source: views, match: [user_id], delay: 1h}
  - {name: revenue, kind: event, type: number, source: views, match: [user_id], value: price, delay: 1h}
features:
  - {name: position, kind: column, serve_as: 1}
  - {name: price, kind: column}
  - {name: stars, kind: column}
  - {name: hour, kind: calendar, part: hour}
  - {name: views, kind: window, source: views, entity: item, aggregate: count, spans: [1d]}
  - {name: mean_price, kind: window, source: views, entity: user, aggregate: mean, field: price, spans: [7d]}
  - {name: device_country, kind: cross, of: [kind_of_device, kind_of_country]}
  - {name: kind_of_device, kind: column, field: device, encode: none}
  - {name: kind_of_country, kind: column, field: country, encode: none}
objectives:
  - {name: buy, label: bought}
  - {name: earn, label: revenue, weight: 0.5}
evaluation: {metric: ndcg, heuristic: stars}
monitoring: {window: 1d}
serving: {deadline: 500ms, feature_timeout: 100ms, fallback: 0.25, ttl: 7d}
"""

GUIDE = """
name: guide
framing: ranking
entities:
  - {name: user, key: user}
sources:
  - name: steps
    reader: parquet
    event_time: {field: at}
    fields:
      - {name: user, type: string}
      - {name: seen, type: int, min: 0}
      - {name: next, type: string, nullable: true}
predict: {source: steps, item: next}
labels:
  - {name: next, kind: column, type: category, delay: 1d}
features:
  - {name: seen, kind: column}
objectives:
  - {name: next, label: next}
evaluation: {metric: hr}
monitoring: {window: 1d}
"""


def shop() -> UseCase:
    return parse(SHOP, name="shop")


def guide() -> UseCase:
    return parse(GUIDE, name="guide")


def view(**values: Any) -> dict[str, Any]:
    """A row of the shop as a client sends it."""
    return {"user_id": "u1", "item_id": "i1", "price": 10.0, "device": "web", **values}


def release(use_case: UseCase, *, digest: str = "a", weights: Mapping[str, float] | None = None) -> Release:
    names = [objective.name for objective in use_case.objectives]
    return Release(
        use_case=use_case.name,
        bundles=tuple(BundleRef(objective=name, uri=f"nowhere/{name}", digest=digest * 64) for name in names),
        weights=dict(weights or {objective.name: objective.weight for objective in use_case.objectives}),
        cursor=NOW,
        created=NOW,
        home="nowhere",
    )


class Client:
    """Requests to an ASGI app in this process."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self._request("POST", path, **body)

    def _request(self, verb: str, path: str, **body: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(verb, path, **body)

        return asyncio.run(send())


class Lines:
    """An open release whose scores are sums of columns: nulls count as −1000, so that none is missed."""

    def __init__(self, of: Release, columns: Mapping[str, Mapping[str, float]]) -> None:
        self.release, self._columns = of, columns
        self.bundles = {name: SimpleNamespace(classes=()) for name in columns}
        self.calls = 0

    def scores(self, rows: pa.Table) -> dict[str, np.ndarray]:
        self.calls += 1
        found = {}
        for objective, weights in self._columns.items():
            total = np.zeros(rows.num_rows)
            for name, weight in weights.items():
                values = [(-1000.0 if value is None else float(value)) for value in rows[name].to_pylist()]
                total += weight * np.asarray(values)
            found[objective] = total
        return found


class Guide:
    """An open release of a category: class i of a, b, c, d scores (seen × (i + 1)) mod 5."""

    def __init__(self, of: Release) -> None:
        self.release, self.bundles = of, {"next": SimpleNamespace(classes=("a", "b", "c", "d"))}

    def scores(self, rows: pa.Table) -> dict[str, np.ndarray]:
        seen = rows["seen"].to_numpy().astype(np.float64)
        return {"next": np.outer(seen, np.arange(1, 5)) % 5 / 10}


def lines(use_case: UseCase, **options: Any) -> Lines:
    """buy = price + 100 × views, earn = position + hour + mean_price."""
    columns = {"buy": {"price": 1, "views_1d": 100}, "earn": {"position": 1, "hour": 1, "mean_price_7d": 1}}
    return Lines(release(use_case, **options), columns)
