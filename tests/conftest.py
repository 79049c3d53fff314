"""Fixtures of all tests. Real data is not shipped: a test that needs it skips, with the reason, if it is absent."""

import os
from pathlib import Path

import pytest
from xdist.remote import Producer

from evermodel import use_case
from tests.support import ROOT
from tests.support.ray_scheduler import RayScheduling
from tests.support.waiting import scaled

SHARED_DATA = ROOT.parent / "shared" / "data"

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(DO_NOT_TRACK="true", MLFLOW_DISABLE_TELEMETRY="true", RAY_USAGE_STATS_ENABLED="0")
# Workers at Ray's own nice 15 train six times slower beside other tests. Ray Train polls for a new epoch every 2 s.
os.environ.update(RAY_worker_niceness="0", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> RayScheduling:
    """For any number of workers and any `--dist`: a module's tests share fixtures, and two Rays must not start at once."""
    return RayScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Scale each test's timeout, its own or the default, by EVERMODEL_TEST_PATIENCE."""
    default = config.getoption("timeout") or config.getini("timeout")
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds = mark.args[0] if mark is not None and mark.args else default
        if seconds:
            item.add_marker(pytest.mark.timeout(scaled(float(seconds))), append=False)


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
