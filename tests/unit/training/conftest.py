"""A small use case with one feature of each encoding, and seeded rows that can be learned from."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.features.training_set import TrainingRows, row_digest
from evermodel.records import Window
from evermodel.use_case import UseCase
from tests.support.use_cases import make_use_case

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)

CASE = make_use_case(
    fields={
        "user": "string",
        "time": "timestamp",
        "amount": {},
        "age": {"nullable": True},
        "late": {},
        "city": "string",
        "shop": "string",
        "hour": {},
        "bought": "int",
        "spent": {},
        "next": "string",
    },
    source={"name": "orders", "event_time": {"field": "time"}},
    labels={
        "bought": {"delay": "1d"},
        "spent": {"type": "number", "delay": "1d"},
        "next": {"type": "category", "delay": "1d"},
    },
    features={
        "amount": {},
        "age": {},
        "late": {},
        "city": {"encode": "embed", "dim": 3},
        "shop": {"encode": "hash", "buckets": 8, "dim": 2},
        "hour": {"encode": "bins", "bins": 4, "dim": 2},
    },
    objectives={
        "bought": {"label": "bought", "model": {"kind": "mlp", "hidden": [8, 4]}},
        "spent": {"label": "spent", "model": {"kind": "linear"}, "label_scale": 10},
        "next": {
            "label": "next",
            "model": {"kind": "two_tower", "hidden": [8], "dim": 4, "options": {"wide": ["city"]}},
        },
    },
    training={"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "scheduler": "cosine", "stateful": {"epochs": 2}},
    monitoring={"window": "7d"},
)


def make_rows(start: int, count: int, *, seed: int = 0, drifted: bool = False) -> pa.Table:
    """Rows of the orders source. Drifted: amounts move, `late` starts to vary, new cities and nulls appear."""
    rng = np.random.default_rng((seed, start))
    amount = rng.normal(5.0, 2.0, count) * (3.0 if drifted else 1.0)
    late = rng.normal(0.0, 1.0, count) if drifted else np.full(count, 0.25)
    cities = ["ulm", "bonn", "kiel"] + (["rome", "oslo"] if drifted else [])
    city = rng.choice(cities, count)
    signal = 0.5 * (amount - 5) + (city == "ulm") + (2.0 * late if drifted else 0.0)
    age = pa.array(rng.normal(40, 9, count), mask=(rng.random(count) < 0.2) if drifted else np.zeros(count, bool))
    return pa.table(
        {
            "row_id": np.arange(start, start + count, dtype=np.int64),
            "event_time": pa.array(
                [START + timedelta(minutes=int(minute)) for minute in range(start, start + count)],
                pa.timestamp("us", tz="UTC"),
            ),
            "amount": amount,
            "age": age,
            "late": late,
            "city": pa.array(city.tolist(), pa.string()),
            "shop": pa.array([f"s{number}" for number in rng.integers(0, 30, count)], pa.string()),
            "hour": rng.uniform(0, 24, count),
            "label:bought": (signal + rng.normal(0, 0.5, count) > 0.5).astype(float),
            "label:spent": 10 * signal + rng.normal(0, 1, count),
            "label:next": pa.array(np.where(signal > 0, city, "home").tolist(), pa.string()),
        }
    )


def make_training_rows(train: pa.Table, *, rehearsal: pa.Table | None = None) -> TrainingRows:
    """One round's rows whose gate's rows play no part."""
    times = train.column("event_time").to_pylist()
    end = times[-1] + timedelta(minutes=1)
    ids = train.column("row_id").to_pylist() + (rehearsal.column("row_id").to_pylist() if rehearsal is not None else [])
    return TrainingRows(
        train=train,
        gate=train.slice(0, 0),
        rehearsal=rehearsal,
        windows=(Window(start=times[0], end=end),),
        gate_window=Window(start=end, end=end + timedelta(hours=1)),
        rehearsal_window=None,
        row_digest=row_digest(np.array(ids, dtype=np.int64)),
        cursor=end,
        data_version="none",
    )


@pytest.fixture(scope="session")
def shop() -> UseCase:
    return CASE


@pytest.fixture(scope="session")
def rows() -> Callable[..., pa.Table]:
    return make_rows


@pytest.fixture(scope="session")
def training_rows() -> Callable[..., TrainingRows]:
    return make_training_rows


@pytest.fixture(scope="session")
def arguments() -> dict[str, Any]:
    """What every call of `train` in these tests gives."""
    return {"trigger": None, "now": NOW}


@pytest.fixture
def vary() -> Callable[..., UseCase]:
    """The use case with fields of its training section, or of one objective, changed."""

    def changed(
        case: UseCase, *, objective: str | None = None, model: dict[str, Any] | None = None, **fields: Any
    ) -> UseCase:
        if objective is None:
            return UseCase.model_validate({**case.model_dump(), "training": {**case.training.model_dump(), **fields}})
        parts = [one.model_dump() for one in case.objectives]
        for part in parts:
            if part["name"] == objective:
                part |= fields
                part["model"] |= model or {}
        return UseCase.model_validate({**case.model_dump(), "objectives": parts})

    return changed
