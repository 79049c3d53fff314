"""The client against a fake v2beta1 server: it starts each run once, and knows every state that ends a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubeflow import submit as kubeflow_submit
from evermodel.execution.kubeflow.client import KfpClient
from evermodel.profile import Profile
from tests.support import ROOT
from tests.unit.execution.kfp_server import Endpoint, kubeflow
from tests.unit.execution.virtual_clock import VirtualClock

PACKAGE = """
pipelineInfo: {name: materialize}
---
platforms: {kubernetes: {}}
"""
PARAMETERS = {"use_case": "/etc/evermodel/use_cases/fraud.yaml", "retrain_key": "0123456789abcdef"}
HOURLY = "0 0 * * * *"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with kubeflow() as fake:
        yield fake


@pytest.fixture
def client(endpoint: Endpoint) -> KfpClient:
    return KfpClient(endpoint.url, namespace="models", policy=VirtualClock().policy())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "materialize.yaml"
    path.write_text(PACKAGE)
    return path


def start(client: KfpClient, package: Path) -> str:
    version = client.upload_version("training", package, "d" * 64)
    run = client.start_run("training-0123456789abcdef", version, PARAMETERS, service_account="pipeline")
    return str(run.run_id)


def test_a_run_is_of_an_uploaded_version_with_its_parameters(
    client: KfpClient, endpoint: Endpoint, package: Path
) -> None:
    run_id = start(client, package)
    (run,) = endpoint.stored["runs"]
    (version,), (pipeline,) = endpoint.stored["pipeline_versions"], endpoint.stored["pipelines"]
    (experiment,) = endpoint.stored["experiments"]
    assert run.run_id == run_id and run.runtime_config.parameters == PARAMETERS
    assert (run.service_account, run.experiment_id) == ("pipeline", experiment.experiment_id)
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert version.display_name == "training-dddddddddddd" and version.pipeline_id == pipeline.pipeline_id
    assert pipeline.namespace == experiment.namespace == "models"
    ((spec, platform),) = endpoint.packages
    assert spec["pipelineInfo"]["name"] == "materialize" and "kubernetes" in platform["platforms"]


def test_a_version_is_uploaded_once(client: KfpClient, endpoint: Endpoint, package: Path) -> None:
    for _ in range(2):
        client.upload_version("training", package, "d" * 64)
    client.upload_version("training", package, "e" * 64)
    assert len(endpoint.packages) == len(endpoint.stored["pipeline_versions"]) == 2
    assert len(endpoint.stored["pipelines"]) == 1


@pytest.mark.parametrize("unlisted", [0, 1])
def test_a_lost_answer_starts_no_second_run(
    client: KfpClient, endpoint: Endpoint, package: Path, unlisted: int
) -> None:
    """The server has started the run, but its response is lost: the client finds the run, even if it is listed late."""
    version = client.upload_version("training", package, "d" * 64)
    client.find_or_create_experiment()
    endpoint.faults, endpoint.unlisted = ["lost"], unlisted
    run = client.start_run("training-k", version, PARAMETERS)
    assert [stored.run_id for stored in endpoint.stored["runs"]] == [run.run_id]


@pytest.mark.parametrize("fault", ["refused", "503", "429"])
def test_a_refused_post_is_repeated(client: KfpClient, endpoint: Endpoint, package: Path, fault: str) -> None:
    version = client.upload_version("training", package, "d" * 64)
    client.find_or_create_experiment()
    endpoint.faults = [fault, fault]
    client.start_run("training-k", version, PARAMETERS)
    assert len(endpoint.stored["runs"]) == 1
    endpoint.faults = [fault] * 10
    with pytest.raises(EvermodelError, match="run training-other couldn't be created in 4 tries"):
        client.start_run("training-other", version, PARAMETERS)


def test_lost_responses_create_nothing_twice(client: KfpClient, endpoint: Endpoint, package: Path) -> None:
    """Pipeline, version, experiment, run: the response to each POST is lost once."""
    endpoint.faults = ["lost"] * 4
    start(client, package)
    assert {kind: len(objects) for kind, objects in endpoint.stored.items()} == {
        "experiments": 1, "pipelines": 1, "pipeline_versions": 1, "runs": 1, "recurringruns": 0,
    }  # fmt: skip


def test_an_active_or_successful_run_is_not_started_again(client: KfpClient, endpoint: Endpoint, package: Path) -> None:
    first = start(client, package)
    assert start(client, package) == first
    endpoint.stored["runs"][0].state = "SUCCEEDED"
    assert start(client, package) == first
    for state in ("FAILED", "CANCELED"):
        endpoint.stored["runs"][-1].state = state
        assert start(client, package) == endpoint.stored["runs"][-1].run_id
    assert len(endpoint.stored["runs"]) == 3


@pytest.mark.parametrize("end", ["SUCCEEDED", "SKIPPED"])
def test_the_wait_ends_with_a_success(client: KfpClient, endpoint: Endpoint, package: Path, end: str) -> None:
    endpoint.states = ["PENDING", "RUNNING", "RUNNING", end]
    lines: list[str] = []
    assert client.wait_for_run(start(client, package), lines.append).state == end
    assert [line.rpartition(" ")[2] for line in lines] == ["PENDING", "RUNNING", end]


@pytest.mark.parametrize(("states", "end"), [(["FAILED"], "FAILED"), (["CANCELING", "CANCELED"], "CANCELED")])
def test_the_wait_ends_with_a_failure(
    client: KfpClient, endpoint: Endpoint, package: Path, states: list[str], end: str
) -> None:
    endpoint.states, endpoint.cause = ["RUNNING", *states], "no rows are left to train on"
    run_id = start(client, package)
    with pytest.raises(EvermodelError) as raised:
        client.wait_for_run(run_id, lambda _: None)
    assert f"({run_id}) ended {end}" in str(raised.value)
    assert ("train: no rows are left" in str(raised.value)) == (end == "FAILED")


def test_the_token_is_read_anew_for_each_call(endpoint: Endpoint, package: Path, tmp_path: Path) -> None:
    endpoint.token, place = "first", tmp_path / "token"
    place.write_text("first\n")
    client = KfpClient(endpoint.url, token_file=place, policy=VirtualClock().policy())
    run_id = start(client, package)
    endpoint.token = "second"
    place.write_text("second\n")
    client.wait_for_run(run_id, lambda _: None)
    assert endpoint.tokens[0] == "Bearer first" and endpoint.tokens[-1] == "Bearer second"


def test_a_refused_token_is_reported_at_once(endpoint: Endpoint, package: Path, tmp_path: Path) -> None:
    endpoint.token, place = "right", tmp_path / "token"
    place.write_text("wrong")
    with pytest.raises(
        EvermodelError, match=rf"refuses the token of {place} \(401\): Request unauthenticated"
    ) as raised:
        start(KfpClient(endpoint.url, token_file=place, policy=VirtualClock().policy()), package)
    assert endpoint.tokens == ["Bearer wrong"] and "wrong" not in str(raised.value)
    with pytest.raises(EvermodelError, match=r"a call without a token \(kfp_token_file\)"):
        start(KfpClient(endpoint.url, policy=VirtualClock().policy()), package)


def test_an_endpoint_that_is_down_is_reported_in_the_end(package: Path) -> None:
    with kubeflow() as stopped:
        pass
    with pytest.raises(EvermodelError, match=r"doesn't answer.*given up after 60 s"):
        start(KfpClient(stopped.url, policy=VirtualClock().policy()), package)


def test_a_recurring_run_skips_missed_times_and_exists_once(
    client: KfpClient, endpoint: Endpoint, package: Path
) -> None:
    version = client.upload_version("monitoring", package, "d" * 64)
    kept = client.schedule_run("monitoring-fraud", version, HOURLY, {"use_case": "fraud"})
    assert (kept.no_catchup, kept.max_concurrency, kept.mode) == (True, "1", "ENABLE")
    assert client.schedule_run("monitoring-fraud", version, HOURLY, {"use_case": "fraud"}) == kept
    endpoint.faults = ["lost"]
    moved = client.schedule_run("monitoring-fraud", version, "0 30 * * * *", {"use_case": "fraud"})
    assert [recurring.recurring_run_id for recurring in endpoint.stored["recurringruns"]] == [moved.recurring_run_id]
    client.schedule_run("monitoring-other", version, HOURLY, {"use_case": "other"})
    assert len(endpoint.stored["recurringruns"]) == 2


def test_a_run_is_named_by_its_key_or_its_parameters(tmp_path: Path) -> None:
    assert kubeflow_submit.run_name("training", PARAMETERS) == "training-0123456789abcdef"
    keyless = {"use_case": "fraud", "now": "2026-01-01", "owner": "a"}
    assert kubeflow_submit.run_name("monitoring", keyless) == kubeflow_submit.run_name(
        "monitoring", {**keyless, "owner": "b"}
    )
    assert kubeflow_submit.run_name("monitoring", keyless) != kubeflow_submit.run_name(
        "monitoring", {**keyless, "now": "2026-01-02"}
    )
    with pytest.raises(InputError, match="set kfp_endpoint"):
        kubeflow_submit.connect(Profile(root=tmp_path))


@pytest.mark.process
def test_the_program_submits_waits_and_schedules(endpoint: Endpoint) -> None:
    """`python -m pipelines submit|schedule`, started as by a person or the launcher."""
    endpoint.states = ["SUCCEEDED"]

    def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "KFP_ENDPOINT": endpoint.url,
            "EVERMODEL_PLATFORM": "tests/pipelines/platform.yaml",
        }
        command = [sys.executable, "-m", "pipelines", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = run_program("submit", "--wait", "training", "use_case=fraud", "retrain_key=k")
    assert (done.returncode, done.stdout) == (0, "runs-1\n"), done.stderr
    assert done.stderr.endswith("run training-k (runs-1): SUCCEEDED\n")
    (run,) = endpoint.stored["runs"]
    assert run.service_account == "evermodel-pipeline" and run.runtime_config.parameters["now"]
    endpoint.states = ["CANCELED"]
    failed = run_program("submit", "--wait", "training", "use_case=fraud", "retrain_key=other")
    assert failed.returncode == 1 and failed.stderr.endswith("error: run training-other (runs-2) ended CANCELED\n")
    scheduled = run_program("schedule", "monitoring", "use_case=/etc/fraud.yaml", "--cron", HOURLY)
    assert scheduled.stdout == "recurringruns-1\n", scheduled.stderr
    (recurring,) = endpoint.stored["recurringruns"]
    assert recurring.display_name == "monitoring-fraud"
    assert recurring.runtime_config.parameters == {"use_case": "/etc/fraud.yaml"}, "each run reads the clock itself"
    assert endpoint.packages[0][1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
