"""The shop of `planted`: its use case, and a champion's reference that was fitted on 4,000 of its rows."""

from __future__ import annotations

import pytest

from evermodel import use_case
from evermodel.monitoring.drift import fit_reference
from evermodel.records import Window
from evermodel.use_case import UseCase

from .synthetic_drift import START, TEXT, WEEK, Shop, World


@pytest.fixture(scope="session")
def case() -> UseCase:
    return use_case.parse(TEXT)


@pytest.fixture(scope="session")
def shop(case: UseCase) -> Shop:
    rows = World().rows(4000, seed=100)
    scores = rows["score"].to_numpy()
    accuracy = float(((scores >= 0.5) == (rows["label:bought"].to_numpy() > 0)).mean())
    window = Window(start=START, end=START + WEEK)
    return Shop(case, fit_reference(case, rows, {"buy": scores}, performance=accuracy, window=window))
