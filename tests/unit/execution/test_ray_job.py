"""A RayJob is applied once, found again, waited for and deleted; its failures are reported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.execution import entrypoint, ray_job
from evermodel.execution.kubernetes_api import KubernetesApi, owner_of_this_pod
from evermodel.execution.ray_job import RayJob, fill_template, run_ray_job
from evermodel.profile import Profile
from evermodel.run_folder import RunFolder
from tests.unit.execution.kubernetes_server import Cluster, kubernetes
from tests.unit.execution.virtual_clock import VirtualClock

TEMPLATE = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {labels: {app.kubernetes.io/component: training}}
spec:
  submissionMode: HTTPMode
  activeDeadlineSeconds: 600
  backoffLimit: 1
  rayClusterSpec:
    workerGroupSpecs:
      - {groupName: workers, replicas: 1, minReplicas: 1, maxReplicas: 1}
"""
PATH = "/apis/ray.io/v1/namespaces/models/rayjobs/train-0123456789abcdef"
KEY = "0123456789abcdef"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "train-x"}
GOOD = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
BAD = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed, last available logs:\nepoch 1\nerror: the loss is nan after epoch 2\n",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with kubernetes(tmp_path) as (fake, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        monkeypatch.delenv("POD_NAME", raising=False)
        yield fake


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    (tmp_path / "rayjob.yaml").write_text(TEMPLATE)
    return Profile(root=tmp_path, ray_job="rayjob.yaml", num_workers=2, namespace="models")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    run = RunFolder(str(tmp_path / "run"))
    storage.write_text(run.plan, "{}")
    storage.write_text(run.training_set, "{}")
    return run.uri


def mark_done(folder: str) -> None:
    entrypoint.mark_done("train", folder, entrypoint.input_digest("train", folder))


def finish(folder: str) -> Any:
    """A step that ends the job well: it writes the marker."""

    def step(job: dict[str, Any]) -> None:
        mark_done(folder)
        job["status"] = GOOD

    return step


def train(profile: Profile, folder: str, clock: VirtualClock) -> None:
    policy, report = clock.policy(), clock.lines.append
    run_ray_job(profile, "train", folder, key=KEY, use_case="fraud", policy=policy, report=report)


def test_a_job_is_applied_followed_and_cleaned_up(cluster: Cluster, profile: Profile, folder: str) -> None:
    clock = VirtualClock()
    applied: dict[str, Any] = {}

    def begin(job: dict[str, Any]) -> None:
        applied.update(job)
        storage.write_text(storage.join(folder, "score", "run", "progress.txt"), "score: epoch 1 of 4, loss 0.5\n")
        job["status"] = RUNNING

    cluster.script["rayjobs"] = [begin, RUNNING, finish(folder)]
    train(profile, folder, clock)
    assert cluster.count_applied("rayjobs") == 1 and PATH not in cluster.objects
    assert applied["spec"]["entrypoint"] == f"python -m evermodel.execution.entrypoint train {folder}"
    assert applied["metadata"]["labels"] == {
        "app.kubernetes.io/component": "training", "evermodel.io/use-case": "fraud", "evermodel.io/run-key": KEY,
    }  # fmt: skip
    (group,) = applied["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    output = "\n".join(clock.lines)
    assert "Running / RUNNING on train-x" in output and output.count("score: epoch 1 of 4, loss 0.5") == 1
    assert "ownerReferences" not in applied["metadata"], "outside a pod it has no owner"


def test_a_finished_job_is_not_started_again(cluster: Cluster, profile: Profile, folder: str) -> None:
    mark_done(folder)
    train(profile, folder, VirtualClock())
    assert cluster.requests == []


def test_a_step_after_a_killed_one_finds_the_job(cluster: Cluster, profile: Profile, folder: str) -> None:
    killed = VirtualClock()
    killed.sleep = interrupt  # type: ignore[method-assign]
    cluster.script["rayjobs"] = [RUNNING]
    with pytest.raises(KeyboardInterrupt):
        train(profile, folder, killed)
    clock = VirtualClock()
    cluster.script["rayjobs"] = [RUNNING, finish(folder)]
    train(profile, folder, clock)
    assert cluster.count_applied("rayjobs") == 1
    assert "found; waiting for its end" in clock.lines[0]


def test_new_events_make_no_other_job(folder: str) -> None:
    def digest(**plan: object) -> str:
        storage.write_text(RunFolder(folder).plan, json.dumps({"key": "k", **plan}))
        return entrypoint.input_digest("train", folder)

    assert digest(data_version="one") == digest(data_version="two")
    assert digest(data_version="one", windows=[1]) != digest(data_version="one", windows=[2])


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("status", [BAD, {**GOOD, "other": "inputs"}])
def test_a_failed_job_or_one_of_other_inputs_is_started_over(
    cluster: Cluster, profile: Profile, folder: str, status: dict[str, Any]
) -> None:
    digest = "another" if "other" in status else entrypoint.input_digest("train", folder)
    put_job(cluster, RayJob("train", folder, KEY, "fraud", digest))["status"] = status
    cluster.finalizers = 3
    clock = VirtualClock()
    cluster.script["rayjobs"] = [status] * 4 + [RUNNING, finish(folder)]
    train(profile, folder, clock)
    assert cluster.count_applied("rayjobs") == 1
    assert "deleting an earlier job" in clock.lines[0]


def test_a_failure_is_reported_in_the_jobs_own_words(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.script["rayjobs"] = [RUNNING, BAD]
    with pytest.raises(EvermodelError, match=r"failed \(FAILED AppFailed\): the loss is nan after epoch 2"):
        train(profile, folder, VirtualClock())
    assert PATH in cluster.objects, "a failed job stays until its time to live is over, for people to look at"


def test_an_exceeded_deadline_is_reported(cluster: Cluster, profile: Profile, folder: str) -> None:
    over = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded", "message": "600 s"}
    cluster.script["rayjobs"] = [RUNNING, over]
    with pytest.raises(EvermodelError, match="exceeded its deadline"):
        train(profile, folder, VirtualClock())


def test_the_wait_ends_without_an_operator(cluster: Cluster, profile: Profile, folder: str) -> None:
    with pytest.raises(EvermodelError, match="still runs after its deadline: is the KubeRay operator up"):
        policy = VirtualClock().policy(poll_seconds=300.0)
        run_ray_job(profile, "train", folder, key=KEY, use_case="fraud", policy=policy)


def test_a_deletion_is_an_error_before_the_end_and_none_after_it(
    cluster: Cluster, profile: Profile, folder: str
) -> None:
    def delete(job: dict[str, Any]) -> None:
        del cluster.objects[PATH]

    cluster.script["rayjobs"] = [RUNNING, delete]
    with pytest.raises(EvermodelError, match="was deleted before its end"):
        train(profile, folder, VirtualClock())

    def finish_and_delete(job: dict[str, Any]) -> None:
        finish(folder)(job)
        delete(job)

    cluster.script["rayjobs"] = [RUNNING, finish_and_delete]
    train(profile, folder, VirtualClock())


def test_success_without_a_result_is_a_failure(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.script["rayjobs"] = [GOOD]
    with pytest.raises(EvermodelError, match="left no result"):
        train(profile, folder, VirtualClock())


def test_an_api_server_that_is_down_for_a_moment_is_retried(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.script["rayjobs"] = [503, RUNNING, 500, 429, finish(folder)]
    train(profile, folder, VirtualClock())
    assert cluster.count_applied("rayjobs") == 1
    cluster.script["rayjobs"] = [503] * 100
    storage.delete_file(storage.join(folder, "train.done"))
    put_job(cluster, RayJob("train", folder, KEY, "fraud", entrypoint.input_digest("train", folder)))
    with pytest.raises(EvermodelError, match=r"503.*given up after 60 s"):
        train(profile, folder, VirtualClock())


def put_job(cluster: Cluster, job: RayJob) -> dict[str, Any]:
    return cluster.put(PATH, fill_template(yaml.safe_load(TEMPLATE), job, num_workers=2, owner=None))


def test_a_refusal_names_the_request(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.token = "another"
    with pytest.raises(EvermodelError, match=r"refuses GET /apis/ray.io/v1/namespaces/models/rayjobs/.* \(401\)"):
        train(profile, folder, VirtualClock())


def test_the_owner_is_the_controller_of_the_pod(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    api = KubernetesApi.connect("models")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "training-1", "uid": "u1"}
    pod = {"metadata": {"name": "p", "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}]}}
    cluster.put("/api/v1/namespaces/models/pods/p", pod)
    assert owner_of_this_pod(api) is None
    monkeypatch.setenv("POD_NAME", "p")
    assert owner_of_this_pod(api) == owner
    manifest = fill_template(yaml.safe_load(TEMPLATE), make_job("k"), num_workers=0, owner=owner)
    assert manifest["metadata"]["ownerReferences"] == [owner]
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == 1


def make_job(key: str, verb: entrypoint.Verb = "train", folder: str = "/run") -> RayJob:
    return RayJob(verb, folder, key, "a case", "digest")


@pytest.mark.parametrize("key", ["Ünïcode/key: 2026-01-01", "a" * 80, "-", "0123456789abcdef"])
def test_any_key_gives_a_valid_kubernetes_name(key: str) -> None:
    for verb in ("train", "predict-batch"):
        name = make_job(key, verb).name
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 47
    assert make_job(key).name != make_job(key + "x").name


def test_the_folder_is_quoted_for_the_shell() -> None:
    uri = "s3://bucket/runs/k?endpoint_override=http://s3:7070&scheme=http"
    manifest = fill_template({"spec": {}}, make_job("k", folder=uri), num_workers=0, owner=None)
    assert manifest["spec"]["entrypoint"] == f"python -m evermodel.execution.entrypoint train '{uri}'"


def test_an_autoscaler_may_go_below_the_number_of_workers() -> None:
    group = {"minReplicas": 0, "maxReplicas": 8}
    ray_job.set_worker_count(group, 4, scaling=True)
    assert group == {"minReplicas": 0, "maxReplicas": 8, "replicas": 4}
