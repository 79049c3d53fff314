"""Rows of a small shop with known drift: features, scores and labels from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel.clock import micros
from evermodel.monitoring.drift import Reference
from evermodel.monitoring.monitor import monitor
from evermodel.records import MonitoringReport, Window
from evermodel.use_case import UseCase

SHOP: dict[str, Any] = {
    "fields": {
        "user": "string",
        "age": {"min": 0, "max": 120},
        "weight": {},
        "speed": {},
        "height": {},
        "town": "string",
        "bought": "bool",
    },
    "source": {"path": "visits.csv"},
    "labels": {"bought": {}},
    "features": {
        "age": {},
        "weight": {},
        "speed": {},
        "height": {},
        "town": {"encode": "hash"},
        "hour": {"kind": "calendar", "part": "hour"},
    },
    "objectives": {"buy": "bought"},
    "evaluation": {"metric": "accuracy"},
    "monitoring": {"window": "7d", "minimum_rows": 100, "performance_drop": 0.05},
}
SALES = [
    {"name": "sales", "unit": "EUR", "outcome": "label", "value": 2, "field": "weight"},
    {"name": "wasted", "unit": "EUR", "outcome": "false_positive", "value": -1},
]
START = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = timedelta(days=7)

SERVED = Window(start=START + 4 * WEEK, end=START + 5 * WEEK)


@dataclass(frozen=True)
class Distribution:
    """The distribution of rows. The model was trained on the default one."""

    shift: float = 0.0  # of weight and speed, in standard deviations
    slope: float = 1.0  # of the concept; −1 reverses it
    positives: float | None = None  # if given, the share of positive rows

    def rows(self, count: int, seed: int, *, start: datetime = START) -> pa.Table:
        """`count` served rows, evenly over a week, with every label known."""
        rng = np.random.default_rng(seed)
        size = count * 8 if self.positives is not None else count
        weight, speed = rng.normal(70 + 10 * self.shift, 10, size), rng.gamma(4, 10 + 10 * self.shift, size)
        signal = (weight - 70) / 10 + (speed - 40) / 20
        log_odds = 1.5 * signal - 0.5
        bought = rng.random(size) < 1 / (1 + np.exp(-(1.5 * self.slope * signal - 0.5)))
        if self.positives is not None:
            wanted = round(count * self.positives)
            keep = np.concatenate([np.flatnonzero(bought)[:wanted], np.flatnonzero(~bought)[: count - wanted]])
            keep = rng.permutation(keep)
            weight, speed, log_odds, bought = weight[keep], speed[keep], log_odds[keep], bought[keep]
        step = int(WEEK.total_seconds() * 1e6) // count
        score = 1 / (1 + np.exp(-log_odds))
        return pa.table(
            {
                "row_id": np.arange(count) + seed * 1_000_000,
                "event_time": pa.array(micros(start) + np.arange(count) * step).cast(pa.timestamp("us", tz="UTC")),
                "user": pa.array([f"u{number}" for number in rng.integers(0, 10_000, count)]),
                "age": rng.integers(18, 90, count).astype(np.float64),
                "weight": weight,
                "speed": speed,
                "height": rng.normal(1.7, 0.1, count),
                "town": pa.array(rng.choice(["rome", "oslo", "bonn"], count, p=[0.5, 0.3, 0.2])),
                "label:bought": bought.astype(np.float64),
                "score": score,
                "score:buy": score,
            }
        )


@dataclass(frozen=True)
class Shop:
    """A use case with a champion's reference, to monitor one window."""

    case: UseCase
    reference: Reference
    window: Window = SERVED

    def monitor(self, rows: pa.Table, *, now: datetime | None = None) -> MonitoringReport:
        return monitor(
            self.case, rows, self.reference, window=self.window, now=now or self.window.end + WEEK, champion="c"
        )

    def serve(self, distribution: Distribution = Distribution(), *, count: int = 336, seed: int = 1) -> pa.Table:
        return distribution.rows(count, seed, start=self.window.start)

    def diagnoses(self, rows: pa.Table, *, now: datetime | None = None) -> dict[str, str]:
        return {alert.kind: alert.diagnosis for alert in self.monitor(rows, now=now).alerts}

    def with_settings(self, **changes: object) -> Shop:
        """The same shop with other monitoring settings."""
        monitoring = self.case.monitoring.model_copy(update=changes)
        return replace(self, case=self.case.model_copy(update={"monitoring": monitoring}))


def with_column(rows: pa.Table, column: str, values: object) -> pa.Table:
    """The table with a column replaced."""
    return rows.set_column(rows.column_names.index(column), column, pa.array(values))
