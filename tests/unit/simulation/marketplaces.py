"""The shipped marketplace with other traffic and faults, for the simulator's tests."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel import use_case
from evermodel.records import Window
from evermodel.simulation.simulator import Simulator
from tests.support import ROOT

RESTAURANTS = use_case.load(ROOT / "use_cases" / "restaurants.yaml")
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def days(first: int, last: int | None = None) -> Window:
    """Day `first` (0 is a Monday) to day `last`, both whole."""
    return Window(
        start=MONDAY + timedelta(days=first), end=MONDAY + timedelta(days=(first if last is None else last) + 1)
    )


def case(changes: dict[str, Any] | None = None, *, faults: Any = ()) -> use_case.UseCase:
    """The shipped file with these faults, and `{"traffic.per_day": 900}` changed."""
    section = copy.deepcopy(RESTAURANTS.simulator)
    assert section is not None
    section["faults"] = list(faults)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = section
        for parent in parents:
            place = place[parent]
        place[last] = value
    return RESTAURANTS.model_copy(update={"simulator": section})


def simulator(changes: dict[str, Any] | None = None, *, faults: Any = ()) -> Simulator:
    return Simulator(case(changes, faults=faults))


def fault(kind: str, first: int, last: int | None = None, **settings: Any) -> dict[str, Any]:
    """A fault from the start of day `first` to the end of day `last`; without `last` it stays active."""
    window = days(first, last)
    return {"kind": kind, "start": window.start, "end": None if last is None else window.end, **settings}


def ordered(impressions: pa.Table, orders: pa.Table) -> np.ndarray:
    """bool[n]: whether the impression's restaurant was ordered in its request."""
    taken = set(zip(orders["request_id"].to_pylist(), orders["restaurant_id"].to_pylist(), strict=True))
    pairs = zip(impressions["request_id"].to_pylist(), impressions["restaurant_id"].to_pylist(), strict=True)
    return np.array([pair in taken for pair in pairs])


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].to_numpy(zero_copy_only=False))
