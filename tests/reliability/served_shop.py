"""A shop whose items are ranked, with real releases that are trained on generated rows, for the tests of serving."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel.records import Release, Window
from evermodel.training.release import train_release
from evermodel.use_case import UseCase
from tests.support.training_rows import make_training_rows

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

SHOP = """
name: shop
framing: ranking
entities: [{name: user, key: user_id}, {name: item, key: item_id}]
sources:
  - name: views
    reader: parquet
    event_time: {field: at}
    fields:
      - {name: request, type: string}
      - {name: user_id, type: string}
      - {name: item_id, type: string}
      - {name: position, type: int, min: 1, max: 9}
      - {name: price, type: float, min: 0, max: 100}
      - {name: stars, type: float, min: 0, max: 5, nullable: true}
      - {name: device, type: string, values: [web, app]}
      - {name: bought, type: bool}
predict: {source: views, group: request, item: item_id}
labels: [{name: bought, kind: column, positive: true, delay: 1h}]
features:
  - {name: position, kind: column, serve_as: 1}
  - {name: price, kind: column}
  - {name: stars, kind: column}
  - {name: device, kind: column, encode: embed}
  - {name: hour, kind: calendar, part: hour}
  - {name: item_views, kind: window, source: views, entity: item, aggregate: count, spans: [1d]}
objectives: [{name: buy, label: bought, model: {kind: linear}}]
training: {epochs: 1}
evaluation: {metric: ndcg}
monitoring: {window: 1d}
serving: {deadline: 2s, feature_timeout: 500ms, fallback: 0.125}
"""


def make_release(shop: UseCase, out: Path, *, seed: int) -> Release:
    """A release that is trained on 256 generated rows; another seed gives another release."""
    rng, n = np.random.default_rng(seed), 256
    times = [NOW - timedelta(hours=n - i) for i in range(n)]
    price = rng.uniform(0, 100, n)
    rows = pa.table(
        {
            "row_id": np.arange(n),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "position": rng.integers(1, 9, n),
            "price": price,
            "stars": pa.array(rng.uniform(0, 5, n), mask=rng.random(n) < 0.1),
            "device": rng.choice(["web", "app"], n),
            "hour": np.array([time.hour for time in times], float),
            "item_views_1d": rng.integers(0, 50, n).astype(float),
            "label:bought": (price + rng.normal(0, 20, n) < 50).astype(float),
        }
    )
    training_rows = make_training_rows(rows, rows, window=Window(start=times[0], end=NOW))
    home = str(out / f"release-{seed}")
    trained = train_release(
        shop, training_rows, parent=None, mode="from_scratch", trigger=None, now=NOW, out=home, seed=seed
    )
    return trained.release


def view(**values: Any) -> dict[str, Any]:
    """A row of the shop as a client sends it."""
    return {"user_id": "u1", "item_id": "i1", "price": 10.0, "device": "web", **values}
