"""Fixtures of all tests. Real data is never shipped: where it is absent, a test that needs it says so and skips."""

import os
from pathlib import Path

import pytest
from xdist.remote import Producer

from evermodel import use_case
from tests.support import ROOT
from tests.support.ray_scheduler import OneRay

SHARED_DATA = ROOT.parent / "shared" / "data"

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(DO_NOT_TRACK="true", MLFLOW_DISABLE_TELEMETRY="true", RAY_USAGE_STATS_ENABLED="0")
# At Ray's nice 15, other tests beside it make a training run six times as long; and it asks every 2 s for a new epoch.
os.environ.update(RAY_worker_niceness="0", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneRay:
    """For any number of workers, whatever `--dist` says: modules share fixtures, and a Ray wants to be alone."""
    return OneRay(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real data sets, or a skip with the reason."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not here: {SHARED_DATA} is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def electricity() -> use_case.UseCase:
    return use_case.load(ROOT / "use_cases" / "electricity.yaml")


@pytest.fixture(scope="session")
def fraud() -> use_case.UseCase:
    return use_case.load(ROOT / "use_cases" / "fraud.yaml")
