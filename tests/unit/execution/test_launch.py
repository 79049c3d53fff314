"""The three launchers: what each starts, what it reports of the end, and the lease after a killed pod."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubernetes_job import JobResult, fill_template, run_job, take_over_leases
from evermodel.execution.launch import launch
from evermodel.execution.ray_job import read_template
from evermodel.ledger import Ledger, lease
from evermodel.profile import Profile
from tests.unit.execution.kubernetes_server import Cluster, kubernetes
from tests.unit.execution.virtual_clock import VirtualClock

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
PARAMETERS = {
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
    with kubernetes(tmp_path) as (fake, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield fake


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    (tmp_path / "job.yaml").write_text(TEMPLATE)
    return Profile(root=tmp_path, job="job.yaml", launcher="job", namespace="models", scratch="scratch")


def run(profile: Profile, parameters: dict[str, str]) -> JobResult:
    return run_job(profile, "training", parameters, policy=VirtualClock().policy(), report=lambda _: None)


def end_with_pod(cluster: Cluster, status: dict[str, Any], log: str) -> Any:
    """A step that ends the Job, with a pod that has printed `log`."""

    def step(job: dict[str, Any]) -> None:
        labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        for number, text in enumerate(("output of an earlier pod", log)):
            metadata = {"name": f"p{number}", "labels": labels, "creationTimestamp": f"2026-01-01T00:00:0{number}Z"}
            cluster.put(f"/api/v1/namespaces/models/pods/p{number}", {"metadata": metadata})
            cluster.logs[f"p{number}"] = text
        job["status"] = status

    return step


def test_a_pipeline_runs_as_a_job_of_its_own(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [{"active": 1}, end_with_pod(cluster, COMPLETE, "INFO - x cache hit (key=1)\ndone\n")]
    done = launch(profile, "training", PARAMETERS, log_name="training-k")
    assert done.cached_steps == 1 and Path(done.log).read_text().endswith("done\n")
    (job,) = [stored for path, stored in cluster.objects.items() if "/jobs/" in path]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "pipelines"]
    assert container["args"] == ["run", "training", f"use_case={PARAMETERS['use_case']}", "windows=", "reason=$$(HOME)"]
    assert {variable["name"]: variable["value"] for variable in container["env"]} == {
        "HOME": "/home/evermodel",
        "PIPELINE_JOB": job["metadata"]["name"],
    }
    assert job["metadata"]["labels"]["evermodel.io/use-case"] == "fraud"


def test_a_second_launch_finds_the_job_of_the_first(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [end_with_pod(cluster, COMPLETE, "done\n")]
    first = run(profile, PARAMETERS)
    again = run(profile, {**PARAMETERS, "owner": "cli@b:3:4"})
    assert first == again and cluster.count_applied("jobs") == 1
    other = fill_template(read_template(profile, "job"), "training", {**PARAMETERS, "windows": "a..b"})
    assert other["metadata"]["name"] != first.name


def test_a_failed_job_reports_its_cause_and_is_replaced_by_the_next_launch(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [
        end_with_pod(cluster, FAILED, "much\nerror: pipeline training failed in train: no rows\n")
    ]
    with pytest.raises(EvermodelError, match="pipeline training failed in train: no rows"):
        launch(profile, "training", PARAMETERS, log_name="training-k")
    cluster.script["jobs"] = [FAILED, end_with_pod(cluster, COMPLETE, "done\n")]
    assert run(profile, PARAMETERS).succeeded
    assert cluster.count_applied("jobs") == 2


def test_a_failed_job_without_pods_reports_its_condition(cluster: Cluster, profile: Profile) -> None:
    cluster.script["jobs"] = [FAILED]
    with pytest.raises(EvermodelError, match="BackoffLimitExceeded: 3 pods"):
        launch(profile, "training", PARAMETERS, log_name="training-k")


def test_a_template_without_a_spec_is_a_usage_error(cluster: Cluster, profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: Job\n")
    with pytest.raises(InputError, match="it has no spec"):
        run(profile, PARAMETERS)


def test_the_kfp_launcher_submits_and_waits_in_a_subprocess(tmp_path: Path) -> None:
    """The project's own `pipelines` prints its arguments."""
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(len(sys.argv) > 5)\n")
    profile = Profile(root=tmp_path, launcher="kfp", scratch="scratch")
    done = launch(profile, "training", {"use_case": "fraud", "owner": "me"}, log_name="k")
    assert Path(done.log).read_text() == "['submit', '--wait', 'training', 'use_case=fraud']\n"
    with pytest.raises(EvermodelError, match=r"pipeline training failed \(log: .*k.log\)"):
        launch(profile, "training", {"use_case": "fraud", "now": "1"}, log_name="k")


def test_the_next_pod_of_a_job_takes_over_the_run_of_the_pod_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the run would wait for the end of the dead pod's lease, because no process sees into another machine."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")

    def begin(owner: str, minutes: int = 0) -> bool:
        at = NOW + timedelta(minutes=minutes)
        return lease.start_leased_run(
            ledger, "k", use_case="fraud", decision_id=None, owner=owner, now=at, seconds=3600
        )

    monkeypatch.setenv("PIPELINE_JOB", "training-1")
    dead = take_over_leases(ledger, "fraud").replace("@", "@dead-pod", 1)
    assert begin(dead) and not begin("job/training-2@other:1:1", 1)
    mine = take_over_leases(ledger, "fraud")
    assert mine != dead and begin(mine, 2)
    (run,) = ledger.runs("fraud")
    assert (run.state, run.attempt) == ("running", 2)
    assert take_over_leases(ledger, "fraud") == mine and ledger.lease("k") is not None, "it keeps its own lease"
    monkeypatch.delenv("PIPELINE_JOB")
    assert take_over_leases(ledger, "fraud").startswith("pipeline@")
