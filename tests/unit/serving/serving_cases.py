"""Small use cases and models for the tests of serving. Their scores can be computed by hand."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from evermodel.records import BundleRef, Release
from evermodel.scores import Scores
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)

SHOP: dict[str, Any] = {
    "framing": "ranking",
    "entities": {"user": "user_id", "item": "item_id"},
    "source": {"name": "views", "reader": "parquet", "constants": {"country": "nl"}},
    "fields": {
        "request": "string",
        "user_id": "string",
        "item_id": "string",
        "position": {"type": "int", "min": 1, "max": 9},
        "price": {"min": 0, "max": 100, "unit": "EUR"},
        "stars": {"min": 0, "max": 5, "nullable": True},
        "device": {"type": "string", "values": ["web", "app"]},
        "since": {"type": "timestamp", "nullable": True},
    },
    "predict": {"group": "request", "item": "item_id", "position": "position"},
    "labels": {
        "bought": {"kind": "event", "source": "views", "match": ["user_id"]},
        "revenue": {"kind": "event", "type": "number", "source": "views", "match": ["user_id"], "value": "price"},
    },
    "features": {
        "position": {"serve_as": 1},
        "price": {},
        "stars": {},
        "hour": {"kind": "calendar", "part": "hour"},
        "views": {"kind": "window", "source": "views", "entity": "item", "aggregate": "count", "spans": ["1d"]},
        "mean_price": {
            "kind": "window", "source": "views", "entity": "user", "aggregate": "mean", "field": "price", "spans": ["7d"],
        },
        "device_country": {"kind": "cross", "of": ["kind_of_device", "kind_of_country"]},
        "kind_of_device": {"field": "device", "encode": "none"},
        "kind_of_country": {"field": "country", "encode": "none"},
    },
    "objectives": {"buy": "bought", "earn": {"label": "revenue", "weight": 0.5}},
    "evaluation": {"metric": "ndcg", "heuristic": "stars"},
    "serving": {"deadline": "500ms", "feature_timeout": "100ms", "fallback": 0.25, "ttl": "7d"},
}  # fmt: skip

GUIDE: dict[str, Any] = {
    "name": "guide",
    "framing": "ranking",
    "source": {"name": "steps", "reader": "parquet"},
    "fields": {"user": "string", "seen": {"type": "int", "min": 0}, "next": {"type": "string", "nullable": True}},
    "predict": {"item": "next"},
    "labels": {"next": {"type": "category", "delay": "1d"}},
    "features": {"seen": {}},
    "evaluation": {"metric": "hr"},
}


def shop() -> UseCase:
    return make_use_case(**SHOP)


def guide() -> UseCase:
    return make_use_case(**GUIDE)


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
        return self.request("GET", path)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())


class LinearModel:
    """An open release whose scores are weighted sums of columns. A null counts as −1000, so that it shows."""

    def __init__(self, release: Release, columns: Mapping[str, Mapping[str, float]]) -> None:
        self.release, self._columns = release, columns
        self.calls = 0

    @property
    def bundle_digests(self) -> dict[str, str]:
        return {bundle.objective: bundle.digest for bundle in self.release.bundles}

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        self.calls += 1
        scores = {}
        for objective, weights in self._columns.items():
            total = np.zeros(rows.num_rows)
            for name, weight in weights.items():
                values = [(-1000.0 if value is None else float(value)) for value in rows[name].to_pylist()]
                total += weight * np.asarray(values)
            scores[objective] = Scores("number", total)
        return scores


class CategoryModel:
    """An open release of a category: class i of a, b, c, d scores (seen × (i + 1)) mod 5."""

    def __init__(self, release: Release) -> None:
        self.release = release

    @property
    def bundle_digests(self) -> dict[str, str]:
        return {bundle.objective: bundle.digest for bundle in self.release.bundles}

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        seen = rows["seen"].to_numpy().astype(np.float64)
        return {"next": Scores("category", np.outer(seen, np.arange(1, 5)) % 5 / 10, ("a", "b", "c", "d"))}


def linear_model(use_case: UseCase, **options: Any) -> LinearModel:
    """buy = price + 100 × views, earn = position + hour + mean_price."""
    columns = {"buy": {"price": 1, "views_1d": 100}, "earn": {"position": 1, "hour": 1, "mean_price_7d": 1}}
    return LinearModel(release(use_case, **options), columns)
