"""Training runs that lose a worker, or the pod that waits for them: they end as if nothing had happened."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import name_of, until
from tests.e2e.deployment import RELEASE, USE_CASE, Deployment
from tests.e2e.load_client import LoadClient, live_day

pytestmark = pytest.mark.usefixtures("champion")
WORKER = "app.kubernetes.io/component=training,evermodel.io/ray=worker"
PIPELINE = "app.kubernetes.io/component=pipeline"
OBJECTIVES = ("order", "revenue")
LATER = live_day(20)  # long after the loop's days
#: In a pod that may ask for RayJobs: the plan and the rows of a run that is over, trained once more in another folder.
AGAIN = """
import sys
from evermodel import storage
from evermodel.workflow import Project
from evermodel.execution.ray_job import run_ray_job
name, key, again = sys.argv[1:]
profile = Project.open().profile
before, folder = (profile.place(name, "runs", one) for one in (key, again))
for file in ("plan.json", "training_set.json"):
    storage.write_text(storage.join(folder, file), storage.read_text(storage.join(before, file)))
run_ray_job(profile, "train", folder, key=again, use_case=name)
"""


@pytest.fixture(scope="module")
def undisturbed(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the first champion's run, in which nobody was killed."""
    runs = tmp_path_factory.mktemp("runs")
    deployment.read_state(f"{USE_CASE}/runs", runs)
    plans = {path.parent: json.loads(path.read_text()) for path in runs.glob("*/plan.json")}
    return next(folder for folder, plan in plans.items() if plan["parent"] is None and (folder / "train.done").exists())


@contextmanager
def trained_again(deployment: Deployment, key: str, again: str) -> Iterator[None]:
    """A Job like the launcher's that trains a run's plan once more; the block runs meanwhile, and it ends well."""
    template = yaml.safe_load(deployment.space.get("configmap", f"{RELEASE}-project")["data"]["job.yaml"])
    template["metadata"]["name"] = again
    (container,) = template["spec"]["template"]["spec"]["containers"]
    container.update(command=["python", "-c", AGAIN], args=[USE_CASE, key, again])
    deployment.space.apply(template)
    yield
    until(f"Job {again}", lambda: deployment.space.get("job", again)["status"].get("succeeded"), seconds=600, every=2)


def log_text(deployment: Deployment, job: str) -> str:
    """What the pods of a Job have said so far."""
    pods = deployment.space.list("pods", f"batch.kubernetes.io/job-name={job}")
    return "".join(deployment.space.logs(name_of(pod)) for pod in pods)


def losses(run_folder: Path) -> dict[str, float]:
    trained = {name: next(run_folder.glob(f"{name}/*/training.json")) for name in OBJECTIVES}
    return {name: json.loads(path.read_text())["manifest"]["final_loss"] for name, path in trained.items()}


def resumed(run_folder: Path) -> dict[str, list[int]]:
    """The epochs from which each objective went on, 0 being its first start."""
    workers = json.loads((run_folder / "workers.json").read_text())
    return {name: sorted({one["epoch"] for one in workers if one["objective"] == name}) for name in OBJECTIVES}


def test_a_worker_is_killed_in_mid_checkpoint(deployment: Deployment, undisturbed: Path, tmp_path: Path) -> None:
    """By SIGKILL when one of the third checkpoint's two files is written: it goes on from the last one that is whole. Who
    takes over the first rank in another pod meets the same failpoint once more."""
    again = f"{undisturbed.name}-half"
    with failpoint(deployment, "train.checkpoint:5"), trained_again(deployment, undisturbed.name, again):
        until("a worker", lambda: deployment.space.ready_pods(WORKER) or None, seconds=300)
    found = came_to_the_same(deployment, undisturbed, again, tmp_path)
    print(f"\nkilled in mid-checkpoint: went on from {found}")
    assert 2 in found["order"]


def test_a_worker_is_lost_at_an_epoch(deployment: Deployment, undisturbed: Path, tmp_path: Path) -> None:
    """Its pod is deleted, and another takes its place; at most one checkpoint interval, which is an epoch, is lost."""
    again = f"{undisturbed.name}-pod"
    with trained_again(deployment, undisturbed.name, again):
        victim = name_of(until("a worker", lambda: deployment.space.ready_pods(WORKER) or None, seconds=300)[0])
        seen = until("an epoch", lambda: epochs(log_text(deployment, again)) or None, seconds=300, every=0.2)
        deployment.space.kubectl("delete", "pod", victim, "--force", "--grace-period=0")
    found = came_to_the_same(deployment, undisturbed, again, tmp_path)
    print(f"\npod deleted after epoch {max(seen)}: went on from {found}")
    assert max(found["order"]) >= max(seen) - 1


def epochs(said: str) -> list[int]:
    """Those of the first objective that are over, as the waiting pod tells them."""
    return [int(number) for number in re.findall(r"order: epoch (\d+) of", said)]


def came_to_the_same(deployment: Deployment, undisturbed: Path, again: str, to: Path) -> dict[str, list[int]]:
    """A run whose models are those of the undisturbed one; the epochs from which each objective went on."""
    deployment.read_state(f"{USE_CASE}/runs/{again}", to)
    assert losses(to) == pytest.approx(losses(undisturbed), abs=1e-6)
    return resumed(to)


def test_the_waiting_pod_is_killed(deployment: Deployment, load_client: LoadClient) -> None:
    """Another pod of the Job finds the RayJob again: one run, and at most one promotion."""
    load_client.live(LATER)
    with asked(deployment, "--now", LATER.end.isoformat()) as result:
        until("the RayJob", lambda: deployment.space.ready_pods(WORKER) or None, seconds=400)
        (pod,) = [one for one in deployment.space.pods(PIPELINE) if one["status"]["phase"] == "Running"]
        job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        deployment.space.kubectl("delete", "pod", name_of(pod), "--force", "--grace-period=0")
        found_again = "found; waiting for its end"
        until("another pod that finds it", lambda: found_again in log_text(deployment, job) or None, seconds=300)
        found = result()
    assert_once(deployment, found)


@contextmanager
def asked(deployment: Deployment, *words: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """`evermodel retrain` in the control service's pod, in the background; yields what waits for its result."""
    verb = ["python", "-m", "evermodel.cli", "retrain", USE_CASE, *words, "-o", "json"]
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


def assert_once(deployment: Deployment, found: dict[str, Any]) -> None:
    """One run of that key, and at most one promotion of what it left."""
    rows = json.loads(
        deployment.control("python", "-c", ONCE, USE_CASE, found["key"], found["release"]).splitlines()[-1]
    )
    assert rows == {"runs": 1, "promotions": int(found["verdict"] == "promote")}


ONCE = """
import json, sys
from evermodel.workflow import Project
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
