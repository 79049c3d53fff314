"""The shop of `synthetic_drift`: its use case, and a champion's reference that was fitted on 4,000 of its rows."""

from __future__ import annotations

import pytest

from evermodel.monitoring.drift import fit_reference
from evermodel.records import Window
from evermodel.use_case import UseCase
from tests.support.scores import binary
from tests.support.use_cases import make_use_case
from tests.unit.monitoring.synthetic_drift import SALES, SHOP, START, WEEK, Distribution, Shop


@pytest.fixture(scope="session")
def case() -> UseCase:
    return make_use_case(**SHOP, business=SALES)


@pytest.fixture(scope="session")
def shop(case: UseCase) -> Shop:
    rows = Distribution().rows(4000, seed=100)
    scores = rows["score"].to_numpy()
    accuracy = float(((scores >= 0.5) == (rows["label:bought"].to_numpy() > 0)).mean())
    window = Window(start=START, end=START + WEEK)
    return Shop(case, fit_reference(case, rows, {"buy": binary(scores)}, performance=accuracy, window=window))
