"""One Evermodel on the cluster that KUBECONFIG names, for all scenarios; without a cluster they skip, and say so.

`make test` never touches a cluster: these run where EVERMODEL_E2E is set, as `make e2e` does. With E2E_KEEP the release
stays when the tests end, and is taken over by the next run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Namespace, missing
from tests.e2e.deployment import CLIENTS, NAMESPACE, USE_CASE, Deployment, remove
from tests.e2e.load_client import FIRST_RUN, First, LoadClient

HERE = Path(__file__).parent
SCENARIOS = ("install", "loop", "training", "faults", "security")
KEPT = Path(os.environ.get("E2E_KEEP") or "/nonexistent")


def scenario(item: pytest.Item) -> int:
    """The place of a test's scenario: each finds what the ones before left."""
    name = item.path.stem.removeprefix("test_e2e_")
    return SCENARIOS.index(name) if name in SCENARIOS else -1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = None if os.environ.get("EVERMODEL_E2E") else "needs a cluster: `make cluster`, then `make e2e`"
    why = why or missing()
    items.sort(key=lambda item: (item.get_closest_marker("last") is not None, scenario(item)))  # stable
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800))
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """NAME@DIGEST by role, as `make images` prints them and the nodes know them."""
    names = {role: os.environ.get(f"EVERMODEL_{role.upper()}_IMAGE", "") for role in ("control", "ray")}
    if gone := [f"EVERMODEL_{role.upper()}_IMAGE" for role, image in names.items() if "@" not in image]:
        pytest.fail(f"set {' and '.join(gone)} to NAME@DIGEST of images that the nodes can have (`make images`)")
    return names


@pytest.fixture(scope="session")
def deployment(images: dict[str, str]) -> Iterator[Deployment]:
    """Installed and ready."""
    if KEPT.is_file():
        found = Deployment(Namespace(NAMESPACE), Namespace(CLIENTS), images, **json.loads(KEPT.read_text()))
    else:
        found = Deployment.prepare(images)
    found.install()
    found.wait_ready()
    yield found
    if os.environ.get("E2E_KEEP") and not found.uninstalled:
        KEPT.write_text(json.dumps({"tokens": found.tokens, "canaries": found.canaries}))
    else:
        remove()


@pytest.fixture(scope="session")
def load_client(deployment: Deployment) -> LoadClient:
    found = LoadClient(deployment)
    found.arrive()
    return found


@pytest.fixture(scope="session")
def first(deployment: Deployment, load_client: LoadClient, tmp_path_factory: pytest.TempPathFactory) -> First:
    """The first champion: trained on the history, which came through Kafka."""
    events = tmp_path_factory.mktemp("events")
    sent = load_client.history()
    deployment.read_state(f"{USE_CASE}/events", events)
    run = deployment.evermodel("retrain", USE_CASE, *FIRST_RUN, timeout=1200)
    return First(sent, events, run)


@pytest.fixture(scope="session")
def champion(deployment: Deployment, request: pytest.FixtureRequest) -> str:
    """Whichever champion there is, or the first one."""
    return deployment.champion() or str(request.getfixturevalue("first").run["release"])
