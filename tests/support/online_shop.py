"""A use case with each kind of window feature, and its events, for the tests of the online stores."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table
from tests.support.use_cases import make_use_case

START = datetime(2026, 1, 1, tzinfo=UTC)
VISITS = {"kind": "window", "source": "visits", "entity": "user"}
CASE = make_use_case(
    fields={
        "user": "string",
        "at": "timestamp",
        "paid": {"min": 0, "nullable": True, "resolution": 0.01},
        "page": "string",
        "bought": "int",
    },
    labels={"bought": {}},
    features={
        "paid": {},
        "visits": {**VISITS, "aggregate": "count", "spans": ["1d", "3d"]},
        "spent": {**VISITS, "aggregate": "sum", "field": "paid", "spans": ["3d"]},
        "mean": {**VISITS, "aggregate": "mean", "field": "paid", "spans": ["3d"]},
        "page": {**VISITS, "aggregate": "last", "field": "page", "spans": ["3d"], "encode": "embed"},
        "before": {**VISITS, "kind": "lag", "field": "page", "steps": 2, "encode": "embed"},
    },
    objectives={"buy": "bought"},
    serving={"ttl": "2d"},
)


def shop_log(root: Path | str) -> EventLog:
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
    log = EventLog(str(root))
    report = ingest_table(CASE, "visits", raw, log, batch_id="first", now=START)
    assert report.applied == n
    return log
