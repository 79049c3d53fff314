"""LoadClient outside of the namespace ask 50 times a second while parts die one at a time: no request may fail.

Each request has 2 s, and is asked again once, 0.5 s after it failed. Times until all is whole again are printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.cluster import Failed, Namespace, Object, is_ready, name_of, node_of, run, until
from tests.e2e.deployment import SERVING_HEAD as HEAD
from tests.e2e.deployment import SERVING_WORKER as WORKER
from tests.e2e.deployment import Deployment
from tests.e2e.load_client import POD, Load, LoadClient
from tests.e2e.process_killer import ProcessKiller

OPERATOR = "app.kubernetes.io/component=kuberay-operator"
RATE = 50
RECOVERED = 120.0  # seconds from a node's loss to the last failure
SETTLED = 3.0  # seconds of load before a fault, and after all is whole again


pytestmark = pytest.mark.usefixtures("champion")


@pytest.fixture(scope="module")
def process_killer(deployment: Deployment) -> Iterator[ProcessKiller]:
    with ProcessKiller.at_work(deployment) as found:
        yield found


@contextmanager
def under_load(load_client: LoadClient, what: str, *, seconds: float = 240) -> Iterator[Load]:
    """Load around a fault; afterwards all is whole again, and how long that took is printed."""
    deployment = load_client.deployment
    until("all whole before the fault", lambda: deployment.whole() or None, seconds=240)
    with load_client.load(rate=RATE) as found:
        time.sleep(SETTLED)
        found.fault, began = time.time(), time.monotonic()
        yield found
        time.sleep(1)
        until(f"all whole after: {what}", lambda: deployment.whole() or None, seconds=seconds)
        took = time.monotonic() - began
        time.sleep(SETTLED)
    print(f"\n{what}: whole again after {took:.0f} s; {found}")


def no_request_failed(found: Load) -> None:
    assert found.result["sent"] > RATE * SETTLED
    assert found.result["failed"] == 0, found


def newest(space: Namespace, selector: str) -> Object:
    return max(space.ready_pods(selector), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


KILLED: dict[str, Callable[[Deployment], tuple[Namespace, str]]] = {
    "a serving worker's container": lambda made: (made.space, WORKER),
    "the GCS Redis": lambda made: (made.space, "app.kubernetes.io/component=gcs-redis"),
    "the feature Redis": lambda made: (made.space, "app.kubernetes.io/component=redis"),
    "the control service": lambda made: (made.space, "app.kubernetes.io/component=control"),
    "the operator": lambda made: (Namespace("kuberay-system"), OPERATOR),
}


@pytest.mark.parametrize("what", KILLED)
def test_sigkill(what: str, deployment: Deployment, load_client: LoadClient, process_killer: ProcessKiller) -> None:
    space, selector = KILLED[what](deployment)
    with under_load(load_client, f"SIGKILL of {what}") as found:
        process_killer.kill(newest(space, selector))
    no_request_failed(found)


@pytest.mark.parametrize(("what", "selector", "force"), [("a worker pod", WORKER, False), ("the head", HEAD, True)])
def test_pod_deleted(what: str, selector: str, force: bool, deployment: Deployment, load_client: LoadClient) -> None:
    with under_load(load_client, f"{'forced ' if force else ''}deletion of {what}") as found:
        how = ["--force", "--grace-period=0"] if force else []
        deployment.space.kubectl(
            "delete", "pod", name_of(newest(deployment.space, selector)), "--wait=false", "--now=false", *how
        )
    no_request_failed(found)


def other_node(load_client: LoadClient) -> str:
    """A node with a serving worker, that does not run the load client."""
    deployment = load_client.deployment
    here = node_of(deployment.clients.get("pod", POD))
    return next(node_of(pod) for pod in deployment.space.ready_pods(WORKER) if node_of(pod) != here)


def test_node_drained(deployment: Deployment, load_client: LoadClient) -> None:
    """Volumes of this test's stores may be bound to the node: they come back with it."""
    deployment.wait_ready()
    node = other_node(load_client)
    with under_load(load_client, "drain of a node") as found:
        began = time.monotonic()
        try:
            run(
                "kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s",
                f"--pod-selector=app!={ProcessKiller.APP}", timeout=200,
            )  # fmt: skip
            print(f"\ndrained after {time.monotonic() - began:.0f} s")
            time.sleep(SETTLED)
        finally:
            run("kubectl", "uncordon", node)
    spread_again(deployment)
    no_request_failed(found)


def spread_again(deployment: Deployment) -> None:
    """While a node was away both workers may have come to be on the other: nothing moves them back by itself."""
    workers = deployment.space.ready_pods(WORKER)
    if len({node_of(pod) for pod in workers}) == 1:
        deployment.space.kubectl("delete", "pod", name_of(workers[0]), "--wait=true", timeout=180)
        deployment.wait_ready()


def test_from_outside_of_the_cluster(deployment: Deployment, process_killer: ProcessKiller, tmp_path: Path) -> None:
    """The same load through a NodePort, from this machine, while a worker pod is deleted."""
    token = tmp_path / "token"
    token.write_text(deployment.tokens["caller"])
    asked = {
        "url": f"{deployment.outside_url}/v1/restaurants/rank",
        "rate": RATE,
        "seconds": 30,
        "body": deployment.example(),
        "token_file": str(token),
    }
    until("all whole before", lambda: deployment.whole() or None, seconds=240)
    client = Path(__file__).parent / "load.py"
    with subprocess.Popen([sys.executable, client, json.dumps(asked)], stdout=subprocess.PIPE, text=True) as process:
        time.sleep(SETTLED)
        deployment.space.kubectl("delete", "pod", name_of(newest(deployment.space, WORKER)), "--wait=false")
        said, _ = process.communicate(timeout=120)
    found = Load()
    found.result.update(json.loads(said))
    print(f"\nthrough the NodePort: {found}")
    no_request_failed(found)


def test_node_lost(deployment: Deployment, load_client: LoadClient) -> None:
    """A machine that is gone without a word: recovered within two minutes, failures are counted."""
    lose, find = os.environ.get("E2E_LOSE"), os.environ.get("E2E_FIND")
    if not (lose and find):
        pytest.skip("needs E2E_LOSE and E2E_FIND: commands that cut the node $NODE off, and bring it back")
    deployment.wait_ready()
    spread_again(deployment)
    node = other_node(load_client)
    environment = {**os.environ, "NODE": node}
    with load_client.load(rate=RATE) as found:
        time.sleep(SETTLED)
        try:
            subprocess.run(["bash", "-c", lose], env=environment, check=True, capture_output=True)
            found.fault = time.time()
            time.sleep(RECOVERED + 10)
        finally:
            subprocess.run(["bash", "-c", find], env=environment, check=True, capture_output=True)
    late = found.failed_after
    print(f"\na node lost: {len(late)} failed, the last {max(late, default=0)} s after the loss; {found}")
    assert max(late, default=0) <= RECOVERED and found.result["sent"] - len(late) > RATE * 60
    until("the node is back", lambda: is_ready_node(node) or None, seconds=120)
    until("all whole with the node", lambda: deployment.whole() or None, seconds=300)


def is_ready_node(name: str) -> bool:
    try:
        return is_ready(json.loads(run("kubectl", "get", "node", name, "-o", "json")))
    except Failed:
        return False


def test_the_champion_is_live_after_all_that(deployment: Deployment) -> None:
    champion = deployment.champion()
    until("the champion answers", lambda: deployment.live() == {champion} or None, seconds=120)
