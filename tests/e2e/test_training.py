"""A training run that loses a worker, and the pod that waits for it: it ends as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Object, name_of, until
from deployment import RELEASE, USE_CASE, Deployment
from visitors import from_scratch

pytestmark = pytest.mark.usefixtures("champion")
WORKER = "app.kubernetes.io/component=training,evermodel.io/ray=worker"
PIPELINE = "app.kubernetes.io/component=pipeline"
OBJECTIVES = ("order", "revenue")


@pytest.fixture(scope="module")
def undisturbed(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over the same rows in which nobody was killed."""
    with asked(deployment, 3) as result:
        return turn_of(deployment, result()["key"], tmp_path_factory.mktemp("undisturbed"))


@contextmanager
def asked(deployment: Deployment, hours: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """`evermodel retrain` in the control service's pod, in the background; yields what waits for its result."""
    verb = ["python", "-m", "evermodel.cli", "retrain", USE_CASE, *from_scratch(hours), "-o", "json"]
    place = ["kubectl", "-n", deployment.space.name, "exec", f"deploy/{RELEASE}-control", "-c", "control", "--"]
    with subprocess.Popen([*place, *verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:

        def result() -> dict[str, Any]:
            said, error = process.communicate(timeout=900)
            assert process.returncode in (0, 3), error[-3000:]  # 3: trained well, and not better than the champion
            found: dict[str, Any] = json.loads(said)
            return found

        try:
            yield result
        finally:
            process.kill()


def told(deployment: Deployment) -> str:
    """What the pods of the newest pipeline Job have said so far."""
    return "".join(deployment.space.logs(name_of(pod)) for pod in deployment.space.list("pods", PIPELINE))


def workers(deployment: Deployment) -> list[Object]:
    return deployment.space.pods(WORKER)


def losses(turn: Path) -> dict[str, float]:
    trained = {name: next(turn.glob(f"{name}/*/training.json")) for name in OBJECTIVES}
    return {name: json.loads(path.read_text())["manifest"]["final_loss"] for name, path in trained.items()}


def resumed(turn: Path) -> dict[str, int]:
    """The epoch from which each objective went on in the end."""
    workers = json.loads((turn / "workers.json").read_text())
    return {name: max(one["epoch"] for one in workers if one["objective"] == name) for name in OBJECTIVES}


def turn_of(deployment: Deployment, key: str, to: Path) -> Path:
    deployment.read_state(f"{USE_CASE}/turns/{key}", to)
    return to


def test_a_worker_and_the_waiting_pod_are_killed(deployment: Deployment, undisturbed: Path, tmp_path: Path) -> None:
    """The worker after its third epoch; then the component's pod, of which another finds the RayJob again."""
    with asked(deployment, 4) as result:
        until("the third epoch", lambda: "order: epoch 3 of" in told(deployment) or None, seconds=400, every=0.3)
        victim = workers(deployment)[0]
        deployment.space.kubectl("delete", "pod", name_of(victim), "--force", "--grace-period=0")
        time.sleep(2)
        (pipeline,) = [pod for pod in deployment.space.pods(PIPELINE) if pod["status"]["phase"] == "Running"]
        deployment.space.kubectl("delete", "pod", name_of(pipeline), "--force", "--grace-period=0")
        until(
            "another pod that finds the RayJob",
            lambda: "found, and waited for" in told(deployment) or None,
            seconds=300,
        )
        found = result()
    turn = turn_of(deployment, found["key"], tmp_path)
    print(
        f"\nkilled after epoch 3 of 6: {losses(turn)} (undisturbed {losses(undisturbed)}), went on from {resumed(turn)}"
    )
    assert losses(turn) == pytest.approx(losses(undisturbed), abs=1e-6)
    assert resumed(turn)["order"] >= 2  # at most one checkpoint interval, which is an epoch, is lost
    assert_once(deployment, found)


def assert_once(deployment: Deployment, found: dict[str, Any]) -> None:
    """One run of that key, and at most one promotion of what it left."""
    rows = json.loads(
        deployment.control("python", "-c", ONCE, USE_CASE, found["key"], found["release"]).splitlines()[-1]
    )
    assert rows == {"runs": 1, "promotions": int(found["verdict"] == "promote")}


ONCE = """
import json, sys
from evermodel.journey import Project
name, key, release = sys.argv[1:]
ledger = Project.open().ledger()
print(json.dumps({
    "runs": sum(run.key == key for run in ledger.runs(name)),
    "promotions": sum(row.release.id == release for row in ledger.promotions(name)),
}))
"""


@contextmanager
def failpoint(deployment: Deployment, name: str) -> Iterator[None]:
    """New training workers die once at this point, each pod."""
    project = f"{RELEASE}-project"
    before = deployment.space.get("configmap", project)["data"]["rayjob.yaml"]
    env = [("EVERMODEL_FAILPOINT", name), ("EVERMODEL_FAILPOINT_LOG", "/tmp/failpoints")]
    template = yaml.safe_load(before)
    for group in template["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        group["template"]["spec"]["containers"][0]["env"] += [{"name": key, "value": value} for key, value in env]
    try:
        _set(deployment, project, yaml.safe_dump(template))
        yield
    finally:
        _set(deployment, project, before)


def _set(deployment: Deployment, project: str, text: str) -> None:
    patch = json.dumps({"data": {"rayjob.yaml": text}})
    deployment.space.kubectl("patch", "configmap", project, "--type=merge", "-p", patch)


def test_a_worker_is_killed_in_mid_checkpoint(deployment: Deployment, undisturbed: Path, tmp_path: Path) -> None:
    """When its files are written and none is stored yet: what is half there is never gone on from."""
    with failpoint(deployment, "train.checkpoint:5"), asked(deployment, 5) as result:
        found = result()
    turn = turn_of(deployment, found["key"], tmp_path)
    print(f"\nkilled in mid-checkpoint: {losses(turn)}, went on from {resumed(turn)}")
    assert losses(turn) == pytest.approx(losses(undisturbed), abs=1e-6)
    assert max(resumed(turn).values()) >= 2
    assert_once(deployment, found)
