"""One seam, three launchers: what each starts, what each says of an end, and who holds the lease after a killed pod."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from evermodel.errors import EvermodelError, InputError
from evermodel.execution import kubernetes_job
from evermodel.execution.kubernetes_api import RetryPolicy
from evermodel.execution.kubernetes_job import run_job
from evermodel.execution.launch import launch
from evermodel.ledger import Ledger, lease
from evermodel.profile import Profile
from tests.unit.execution.kubernetes_server import Cluster, kubernetes

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEMPLATE = """
apiVersion: batch/v1
kind: Job
metadata: {labels: {app.kubernetes.io/component: pipeline}}
spec:
  template:
    spec:
      containers:
        - {name: pipeline, image: ray, command: [sh], env: [{name: HOME, value: /home/evermodel}]}
"""
ASKED = {
    "use_case": "/etc/evermodel/project/use_cases/fraud.yaml",
    "windows": "",
    "reason": "$(HOME)",
    "owner": "cli@a:1:2",
}
COMPLETE = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
FAILED = {
    "failed": 3,
    "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "3 pods"}],
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with kubernetes(tmp_path) as (found, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield found


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    (tmp_path / "job.yaml").write_text(TEMPLATE)
    return Profile(root=tmp_path, job="job.yaml", launcher="job", namespace="models", scratch="scratch")


def policy() -> RetryPolicy:
    return RetryPolicy(say=lambda _: None, sleep=lambda _: None)


def with_pod(cluster: Cluster, status: dict[str, Any], log: str) -> Any:
    """The step at which a Job has ended, with a pod that printed something."""

    def step(found: dict[str, Any]) -> None:
        labels = {"batch.kubernetes.io/job-name": found["metadata"]["name"]}
        for number, text in enumerate(("of an earlier pod", log)):
            metadata = {"name": f"p{number}", "labels": labels, "creationTimestamp": f"2026-01-01T00:00:0{number}Z"}
            cluster.put(f"/api/v1/namespaces/models/pods/p{number}", {"metadata": metadata})
            cluster.logs[f"p{number}"] = text
        found["status"] = status

    return step


def test_a_pipeline_runs_as_a_job_of_its_own(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [{"active": 1}, with_pod(cluster, COMPLETE, "INFO - x cache hit (key=1)\ndone\n")]
    done = launch(profile, "training", ASKED, log_name="training-k")
    assert done.cached_steps == 1 and Path(done.log).read_text().endswith("done\n")
    ((_, job),) = [(path, one) for path, one in cluster.objects.items() if "/jobs/" in path]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "pipelines"]
    assert container["args"] == ["run", "training", f"use_case={ASKED['use_case']}", "windows=", "reason=$$(HOME)"]
    assert {one["name"]: one["value"] for one in container["env"]} == {
        "HOME": "/home/evermodel",
        "PIPELINE_JOB": job["metadata"]["name"],
    }
    assert job["metadata"]["labels"]["evermodel.io/use-case"] == "fraud"


def test_asking_again_finds_the_job_whoever_asks(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [with_pod(cluster, COMPLETE, "done\n")]
    first = run_job(profile, "training", ASKED, policy=policy())
    again = run_job(profile, "training", {**ASKED, "owner": "cli@b:3:4"}, policy=policy())
    assert first == again and cluster.applied("jobs") == 1
    other = kubernetes_job.filled(
        kubernetes_job.read_template(profile, "job"), "training", {**ASKED, "windows": "a..b"}
    )
    assert other["metadata"]["name"] != first.name


def test_a_failed_job_says_why_and_can_be_asked_for_again(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [with_pod(cluster, FAILED, "much\nerror: pipeline training failed in train: no rows\n")]
    with pytest.raises(EvermodelError, match="pipeline training failed in train: no rows"):
        launch(profile, "training", ASKED, log_name="training-k")
    cluster.script["jobs"] = [FAILED, with_pod(cluster, COMPLETE, "done\n")]
    assert run_job(profile, "training", ASKED, policy=policy()).succeeded
    assert cluster.applied("jobs") == 2


def test_a_job_whose_pods_are_gone_says_its_reason(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [FAILED]
    with pytest.raises(EvermodelError, match="BackoffLimitExceeded: 3 pods"):
        launch(profile, "training", ASKED, log_name="training-k")


def test_a_template_that_is_none_is_a_usage_error(cluster: Cluster, profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: Job\n")
    with pytest.raises(InputError, match="it has no spec"):
        run_job(profile, "training", ASKED, policy=policy())


def test_kfp_is_submitted_to_and_waited_for_in_a_subprocess(tmp_path: Path) -> None:
    """The project's own `pipelines`: what it is given is what it prints."""
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(len(sys.argv) > 5)\n")
    profile = Profile(root=tmp_path, launcher="kfp", scratch="scratch")
    done = launch(profile, "training", {"use_case": "fraud", "owner": "me"}, log_name="k")
    assert Path(done.log).read_text() == "['submit', '--wait', 'training', 'use_case=fraud']\n"
    with pytest.raises(EvermodelError, match=r"pipeline training failed \(log: .*k.log\)"):
        launch(profile, "training", {"use_case": "fraud", "now": "1"}, log_name="k")


def test_the_next_pod_of_a_job_takes_over_the_run_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the run would stand still until the dead pod's lease is over: nobody knows of another machine."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")

    def begin(owner: str, hours: int = 0) -> bool:
        at = NOW + timedelta(minutes=hours)
        return lease.begin(ledger, "k", use_case="fraud", decision_id=None, owner=owner, now=at, seconds=3600)

    monkeypatch.setenv("PIPELINE_JOB", "training-1")
    dead = kubernetes_job.take_over(ledger, "fraud").replace("@", "@dead-pod-").replace("dead-pod-", "dead-pod", 1)
    assert begin(dead) and not begin("job/training-2@other:1:1", 1)
    mine = kubernetes_job.take_over(ledger, "fraud")
    assert mine != dead and begin(mine, 2)
    (run,) = ledger.runs("fraud")
    assert (run.state, run.attempt) == ("running", 2)
    assert kubernetes_job.take_over(ledger, "fraud") == mine and ledger.lease("k") is not None, "its own lease is kept"
    monkeypatch.delenv("PIPELINE_JOB")
    assert kubernetes_job.take_over(ledger, "fraud").startswith("pipeline@")
