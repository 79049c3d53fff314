"""A small use case on which each stage takes a second: pumps that fail under load.

Five days of 400 readings, 2,000 events. Three days train the first champion, and the fourth is like them. On the fifth
the load shifts, and with it the load at which a pump fails: the champion is wrong about every other pump. A label is known
an hour after its reading. Later days are like the fifth.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from evermodel import storage
from evermodel.records import Window
from tests.support.use_cases import use_case_text

NAME = "pumps"
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST = Window(start=START, end=START + 3 * DAY)
LIVE = tuple(Window(start=FIRST.end + n * DAY, end=FIRST.end + (n + 1) * DAY) for n in range(2))
PER_DAY = 400

#: The arguments of `tests.support.use_cases.use_case_text`.
PUMPS: dict[str, Any] = {
    "name": "pumps",
    "entities": {"pump": "pump"},
    "source": {"name": "readings", "path": "readings.csv", "unique": ["id"]},
    "fields": {
        "id": "string",
        "at": "timestamp",
        "pump": "string",
        "load": {"min": -20, "max": 20},
        "heat": {"min": -20, "max": 20},
        "failed": {"type": "int", "values": ["0", "1"]},
    },
    "labels": {"failed": {"delay": "1h"}},
    "features": {
        "load": {},
        "heat": {},
        "recent": {
            "kind": "window", "source": "readings", "entity": "pump", "aggregate": "mean", "field": "load", "spans": ["6h"],
        },
    },
    "objectives": {"failed": {"label": "failed", "model": {"kind": "mlp", "hidden": [8]}}},
    "training": {
        "first": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-04T00:00:00Z"},
        "epochs": 4,
        "batch_size": 64,
        "learning_rate": 0.03,
        "stateful": {"epochs": 8, "batch_size": 32, "learning_rate": 0.03, "rehearsal_share": 0.05},
    },
    "evaluation": {"metric": "accuracy", "baselines": ["random", "majority"]},
    "gate": {"share": 0.3, "margin": 0.1, "resamples": 100},
    "monitoring": {"window": "1d", "minimum_rows": 100, "performance_drop": 0.1},
    "retraining": {"minimum_new_rows": 100},
}  # fmt: skip


def write_use_case(root: Path, **changes: Any) -> Path:
    """Write the use-case file into a project's folder. `changes`: other arguments than those of `PUMPS`."""
    made = PUMPS | changes
    path = root / "use_cases" / f"{made['name']}.yaml"
    storage.write_text(path, use_case_text(**made))
    return path


def write_readings(folder: Path, rows: list[dict[str, object]]) -> None:
    """Write `readings.csv`, which the use case reads."""
    path = folder / "readings.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def readings(days: int = 5) -> list[dict[str, object]]:
    """The readings of the first `days`, in order of time."""
    rng = np.random.default_rng(7)
    rows: list[dict[str, object]] = []
    for n in range(PER_DAY * days):
        day, place = divmod(n, PER_DAY)
        shift = 3.0 if day >= 4 else 0.0
        load, heat = rng.normal(shift), rng.normal()
        risk = 3.0 * (load - shift) + 0.5 * heat
        rows.append(
            {
                "id": f"r{n}",
                "at": (START + day * DAY + place * DAY / PER_DAY).isoformat(),
                "pump": f"p{rng.integers(4)}",
                "load": f"{load:.6f}",
                "heat": f"{heat:.6f}",
                "failed": int(rng.random() < 1 / (1 + np.exp(-risk))),
            }
        )
    return rows
