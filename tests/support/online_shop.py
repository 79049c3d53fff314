"""A use case with a window feature of each kind, and its events: what the tests of the online stores read and write."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from evermodel import use_case
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table

START = datetime(2026, 1, 1, tzinfo=UTC)
CASE = use_case.parse(
    """
name: shop
framing: binary
entities: [{name: user, key: user}]
sources:
  - name: visits
    reader: csv
    event_time: {field: at}
    fields:
      - {name: user, type: string}
      - {name: at, type: timestamp}
      - {name: paid, min: 0, nullable: true, resolution: 0.01}
      - {name: page, type: string}
      - {name: bought, type: int}
predict: {source: visits}
labels: [{name: bought, kind: column, delay: 1h}]
features:
  - {name: paid, kind: column}
  - {name: visits, kind: window, source: visits, entity: user, aggregate: count, spans: [1d, 3d]}
  - {name: spent, kind: window, source: visits, entity: user, aggregate: sum, field: paid, spans: [3d]}
  - {name: mean, kind: window, source: visits, entity: user, aggregate: mean, field: paid, spans: [3d]}
  - {name: page, kind: window, source: visits, entity: user, aggregate: last, field: page, spans: [3d], encode: embed}
  - {name: before, kind: lag, source: visits, entity: user, field: page, steps: 2, encode: embed}
objectives: [{name: buy, label: bought}]
evaluation: {metric: auc}
monitoring: {window: 1d}
serving: {ttl: 2d}
"""
)


def shop_log(root: Path) -> EventLog:
    """400 visits of nine users in the first five days."""
    rng = np.random.default_rng(3)
    n = 400
    raw = pa.table(
        {
            "user": [f"u{value}" for value in rng.integers(0, 9, n)],
            "at": pa.array(
                [START + timedelta(minutes=int(value)) for value in rng.integers(0, 5 * 1440, n)],
                pa.timestamp("us", "UTC"),
            ),
            "paid": pa.array(rng.random(n).round(2), mask=rng.random(n) < 0.2),
            "page": [f"p{value}" for value in rng.integers(0, 4, n)],
            "bought": rng.integers(0, 2, n),
        }
    )
    found = EventLog(str(root))
    report = ingest_table(CASE, "visits", raw, found, batch_id="first", now=START)
    assert report.applied == n
    return found
