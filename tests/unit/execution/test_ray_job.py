"""A RayJob is asked for once, found again, waited for, and cleaned up; what went wrong is said."""

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
from evermodel.execution.kubernetes_api import KubernetesApi, RetryPolicy, owner_of_this_pod
from evermodel.execution.ray_job import Ask, filled, on_ray
from evermodel.profile import Profile
from tests.unit.execution.kubernetes_server import Cluster, kubernetes

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


class Clock:
    """Time that passes only in sleeps."""

    def __init__(self) -> None:
        self.now, self.said = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(say=self.said.append, sleep=self.sleep, clock=lambda: self.now, patience=60.0)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with kubernetes(tmp_path) as (found, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        monkeypatch.delenv("POD_NAME", raising=False)
        yield found


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    (tmp_path / "rayjob.yaml").write_text(TEMPLATE)
    return Profile(root=tmp_path, ray_job="rayjob.yaml", num_workers=2, namespace="models")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    turn = tmp_path / "turn"
    storage.write_text(turn / "plan.json", "{}")
    storage.write_text(turn / "training_set.json", "{}")
    return str(turn)


def finish(folder: str) -> Any:
    """The step at which the job is done: it leaves its marker."""

    def step(found: dict[str, Any]) -> None:
        storage.write_text(storage.join(folder, "train.done"), entrypoint.inputs("train", folder))
        found["status"] = GOOD

    return step


def train(profile: Profile, folder: str, clock: Clock) -> None:
    on_ray(profile, "train", folder, key=KEY, use_case="fraud", policy=clock.policy)


def test_a_job_is_applied_followed_and_cleaned_up(cluster: Cluster, profile: Profile, folder: str) -> None:
    clock = Clock()
    seen: dict[str, Any] = {}

    def look(found: dict[str, Any]) -> None:
        seen.update(found)
        storage.write_text(storage.join(folder, "score", "run", "progress.txt"), "score: epoch 1 of 4, loss 0.5\n")
        found["status"] = RUNNING

    cluster.script["rayjobs"] = [look, RUNNING, finish(folder)]
    train(profile, folder, clock)
    assert cluster.applied("rayjobs") == 1 and PATH not in cluster.objects
    assert seen["spec"]["entrypoint"] == f"python -m evermodel.execution.entrypoint train {folder}"
    assert seen["metadata"]["labels"] == {
        "app.kubernetes.io/component": "training", "evermodel.io/use-case": "fraud", "evermodel.io/run-key": KEY,
    }  # fmt: skip
    (group,) = seen["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    told = "\n".join(clock.said)
    assert "Running / RUNNING on train-x" in told and told.count("score: epoch 1 of 4, loss 0.5") == 1
    assert "ownerReferences" not in seen["metadata"], "outside a pod there is nobody to own it"


def test_what_is_done_is_not_asked_for_again(cluster: Cluster, profile: Profile, folder: str) -> None:
    storage.write_text(storage.join(folder, "train.done"), entrypoint.inputs("train", folder))
    train(profile, folder, Clock())
    assert cluster.asked == []


def test_who_comes_after_a_killed_one_finds_the_job(cluster: Cluster, profile: Profile, folder: str) -> None:
    killed = Clock()
    killed.sleep = _killed  # type: ignore[method-assign]
    cluster.script["rayjobs"] = [RUNNING]
    with pytest.raises(KeyboardInterrupt):
        train(profile, folder, killed)
    clock = Clock()
    cluster.script["rayjobs"] = [RUNNING, finish(folder)]
    train(profile, folder, clock)
    assert cluster.applied("rayjobs") == 1
    assert "found, and waited for" in clock.said[0]


def test_events_that_come_in_meanwhile_make_no_other_job(folder: str) -> None:
    def digest(**plan: object) -> str:
        storage.write_text(storage.join(folder, "plan.json"), json.dumps({"key": "k", **plan}))
        return entrypoint.inputs("train", folder)

    assert digest(data_version="one") == digest(data_version="two")
    assert digest(data_version="one", windows=[1]) != digest(data_version="one", windows=[2])


def _killed(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("standing", [BAD, {**GOOD, "other": "inputs"}])
def test_a_failed_job_or_one_of_other_inputs_is_started_over(
    cluster: Cluster, profile: Profile, folder: str, standing: dict[str, Any]
) -> None:
    ask = Ask(
        "train", folder, KEY, "fraud", "of other inputs" if "other" in standing else entrypoint.inputs("train", folder)
    )
    cluster.put(PATH, filled(yaml.safe_load(TEMPLATE), ask, num_workers=2, owner=None))["status"] = standing
    cluster.finalizers = 3
    clock = Clock()
    cluster.script["rayjobs"] = [standing] * 4 + [RUNNING, finish(folder)]
    train(profile, folder, clock)
    assert cluster.applied("rayjobs") == 1
    assert "in the way" in clock.said[0]


def test_a_failure_is_said_in_the_jobs_own_words(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.script["rayjobs"] = [RUNNING, BAD]
    with pytest.raises(EvermodelError, match=r"failed \(FAILED AppFailed\): the loss is nan after epoch 2"):
        train(profile, folder, Clock())
    assert PATH in cluster.objects, "it stays to be looked at, until its time to live is over"


def test_a_deadline_is_said(cluster: Cluster, profile: Profile, folder: str) -> None:
    over = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded", "message": "600 s"}
    cluster.script["rayjobs"] = [RUNNING, over]
    with pytest.raises(EvermodelError, match="went over its deadline"):
        train(profile, folder, Clock())


def test_without_an_operator_the_wait_ends(cluster: Cluster, profile: Profile, folder: str) -> None:
    with pytest.raises(EvermodelError, match="beyond its deadline: is the KubeRay operator up"):
        on_ray(profile, "train", folder, key=KEY, use_case="fraud", policy=_coarse(Clock()))


def _coarse(clock: Clock) -> RetryPolicy:
    return RetryPolicy(say=clock.said.append, sleep=lambda _: clock.sleep(300), clock=lambda: clock.now)


def test_deleted_meanwhile_is_an_error_and_after_the_end_is_none(
    cluster: Cluster, profile: Profile, folder: str
) -> None:
    def delete(found: dict[str, Any]) -> None:
        del cluster.objects[PATH]

    cluster.script["rayjobs"] = [RUNNING, delete]
    with pytest.raises(EvermodelError, match="was deleted before it had ended"):
        train(profile, folder, Clock())

    def done_and_deleted(found: dict[str, Any]) -> None:
        finish(folder)(found)
        delete(found)

    cluster.script["rayjobs"] = [RUNNING, done_and_deleted]
    train(profile, folder, Clock())


def test_success_without_a_result_is_no_success(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.script["rayjobs"] = [GOOD]
    with pytest.raises(EvermodelError, match="left nothing"):
        train(profile, folder, Clock())


def test_an_api_server_that_is_away_for_a_moment_is_sat_out(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.script["rayjobs"] = [503, RUNNING, 500, 429, finish(folder)]
    train(profile, folder, Clock())
    assert cluster.applied("rayjobs") == 1
    cluster.script["rayjobs"] = [503] * 100
    storage.delete_file(storage.join(folder, "train.done"))
    cluster.put(PATH, filled(yaml.safe_load(TEMPLATE), _ask(folder), num_workers=2, owner=None))
    with pytest.raises(EvermodelError, match=r"503.*given up after 60 s"):
        train(profile, folder, Clock())


def _ask(folder: str) -> Ask:
    return Ask("train", folder, KEY, "fraud", entrypoint.inputs("train", folder))


def test_a_refusal_names_what_was_asked(cluster: Cluster, profile: Profile, folder: str) -> None:
    cluster.token = "another"
    with pytest.raises(EvermodelError, match=r"refuses GET /apis/ray.io/v1/namespaces/models/rayjobs/.* \(401\)"):
        train(profile, folder, Clock())


def test_the_owner_is_what_outlives_the_pod(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    api = KubernetesApi.connect("models")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "training-1", "uid": "u1"}
    pod = {"metadata": {"name": "p", "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}]}}
    cluster.put("/api/v1/namespaces/models/pods/p", pod)
    assert owner_of_this_pod(api) is None
    monkeypatch.setenv("POD_NAME", "p")
    assert owner_of_this_pod(api) == owner
    manifest = filled(yaml.safe_load(TEMPLATE), _named("k"), num_workers=0, owner=owner)
    assert manifest["metadata"]["ownerReferences"] == [owner]
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == 1


def _named(key: str, verb: entrypoint.Verb = "train", folder: str = "/turn") -> Ask:
    return Ask(verb, folder, key, "a case", "digest")


@pytest.mark.parametrize("key", ["Ünïcode/key: 2026-01-01", "a" * 80, "-", "0123456789abcdef"])
def test_any_key_gives_a_name_that_kubernetes_takes(key: str) -> None:
    for verb in ("train", "predict-batch"):
        name = _named(key, verb).name
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 47
    assert _named(key).name != _named(key + "x").name


def test_the_shell_that_runs_the_entry_point_sees_one_folder() -> None:
    uri = "s3://bucket/turns/k?endpoint_override=http://s3:7070&scheme=http"
    manifest = filled({"spec": {}}, _named("k", folder=uri), num_workers=0, owner=None)
    assert manifest["spec"]["entrypoint"] == f"python -m evermodel.execution.entrypoint train '{uri}'"


def test_an_autoscaler_may_go_below_the_number_of_workers() -> None:
    group = {"minReplicas": 0, "maxReplicas": 8}
    ray_job.spread_over(group, 4, scaling=True)
    assert group == {"minReplicas": 0, "maxReplicas": 8, "replicas": 4}
