"""The launcher's client against a server that speaks v2beta1: one run however often it is asked, and every end is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubeflow import submit as kfp
from evermodel.execution.kubeflow.client import KfpClient, RetryPolicy
from evermodel.profile import Profile
from tests.support import ROOT
from tests.unit.execution.kfp_server import Endpoint, kubeflow

PACKAGE = ROOT / "tests" / "pipelines" / "golden" / "materialize.yaml"
ASKED = {"use_case": "/etc/evermodel/use_cases/fraud.yaml", "retrain_key": "0123456789abcdef"}
HOURLY = "0 0 * * * *"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patient(**more: float) -> RetryPolicy:
    clock = Clock()
    return RetryPolicy(sleep=clock.sleep, clock=lambda: clock.now, patience=60.0, **more)  # type: ignore[arg-type]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with kubeflow() as found:
        yield found


@pytest.fixture
def client(endpoint: Endpoint) -> KfpClient:
    return KfpClient(endpoint.url, namespace="models", policy=patient())


def start(client: KfpClient, name: str = "training-0123456789abcdef") -> str:
    version = client.version("training", PACKAGE, "d" * 64)
    return str(client.start(name, version, ASKED, account="pipeline").run_id)


def test_a_run_is_of_an_uploaded_version_with_its_parameters(client: KfpClient, endpoint: Endpoint) -> None:
    run_id = start(client)
    (run,) = endpoint.stored["runs"]
    (version,), (pipeline,) = endpoint.stored["pipeline_versions"], endpoint.stored["pipelines"]
    (experiment,) = endpoint.stored["experiments"]
    assert run.run_id == run_id and run.runtime_config.parameters == ASKED
    assert (run.service_account, run.experiment_id) == ("pipeline", experiment.experiment_id)
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert version.display_name == "training-dddddddddddd" and version.pipeline_id == pipeline.pipeline_id
    assert pipeline.namespace == experiment.namespace == "models"
    ((spec, platform),) = endpoint.packages
    assert spec["pipelineInfo"]["name"] == "materialize" and "kubernetes" in platform["platforms"]


def test_a_version_is_uploaded_once(client: KfpClient, endpoint: Endpoint) -> None:
    for _ in range(2):
        client.version("training", PACKAGE, "d" * 64)
    client.version("training", PACKAGE, "e" * 64)
    assert len(endpoint.packages) == len(endpoint.stored["pipeline_versions"]) == 2
    assert len(endpoint.stored["pipelines"]) == 1


@pytest.mark.parametrize("unseen", [0, 1])
def test_a_lost_answer_starts_no_second_run(client: KfpClient, endpoint: Endpoint, unseen: int) -> None:
    """The POST is carried out and its answer lost: the run is looked up, even where it takes a while to be seen."""
    version = client.version("training", PACKAGE, "d" * 64)
    client._experiment()
    endpoint.faults, endpoint.unseen = ["lost"], unseen
    run = client.start("training-k", version, ASKED)
    assert [one.run_id for one in endpoint.stored["runs"]] == [run.run_id]


@pytest.mark.parametrize("fault", ["refused", "503", "429"])
def test_what_was_not_carried_out_is_tried_again(client: KfpClient, endpoint: Endpoint, fault: str) -> None:
    version = client.version("training", PACKAGE, "d" * 64)
    client._experiment()
    endpoint.faults = [fault, fault]
    client.start("training-k", version, ASKED)
    assert len(endpoint.stored["runs"]) == 1
    endpoint.faults = [fault] * 10
    with pytest.raises(EvermodelError, match="run training-other couldn't be made in 4 tries"):
        client.start("training-other", version, ASKED)


def test_all_that_is_made_survives_lost_answers(client: KfpClient, endpoint: Endpoint) -> None:
    """Pipeline, version, experiment, run: each POST's answer is lost once."""
    endpoint.faults = ["lost"] * 4
    start(client)
    assert {kind: len(made) for kind, made in endpoint.stored.items()} == {
        "experiments": 1, "pipelines": 1, "pipeline_versions": 1, "runs": 1, "recurringruns": 0,
    }  # fmt: skip


def test_a_run_that_goes_on_or_has_succeeded_is_not_started_again(client: KfpClient, endpoint: Endpoint) -> None:
    first = start(client)
    assert start(client) == first
    endpoint.stored["runs"][0].state = "SUCCEEDED"
    assert start(client) == first
    for state in ("FAILED", "CANCELED"):
        endpoint.stored["runs"][-1].state = state
        assert start(client) == endpoint.stored["runs"][-1].run_id
    assert len(endpoint.stored["runs"]) == 3


@pytest.mark.parametrize("end", ["SUCCEEDED", "SKIPPED"])
def test_a_good_end_ends_the_wait(client: KfpClient, endpoint: Endpoint, end: str) -> None:
    endpoint.states = ["PENDING", "RUNNING", "RUNNING", end]
    said: list[str] = []
    assert client.wait(start(client), said.append).state == end
    assert [line.rpartition(" ")[2] for line in said] == ["PENDING", "RUNNING", end]


@pytest.mark.parametrize(("states", "end"), [(["FAILED"], "FAILED"), (["CANCELING", "CANCELED"], "CANCELED")])
def test_a_bad_end_ends_it_too(client: KfpClient, endpoint: Endpoint, states: list[str], end: str) -> None:
    endpoint.states, endpoint.cause = ["RUNNING", *states], "no rows are left to train on"
    run_id = start(client)
    with pytest.raises(EvermodelError) as raised:
        client.wait(run_id, lambda _: None)
    assert f"({run_id}) ended {end}" in str(raised.value)
    assert ("train: no rows are left" in str(raised.value)) == (end == "FAILED")


def test_the_token_is_read_anew_for_each_call(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.token, place = "first", tmp_path / "token"
    place.write_text("first\n")
    client = KfpClient(endpoint.url, token_file=place, policy=patient())
    run_id = start(client)
    endpoint.token = "second"
    place.write_text("second\n")
    client.wait(run_id, lambda _: None)
    assert endpoint.tokens[0] == "Bearer first" and endpoint.tokens[-1] == "Bearer second"


def test_a_refused_token_is_said_at_once(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.token, place = "right", tmp_path / "token"
    place.write_text("wrong")
    with pytest.raises(EvermodelError, match=rf"refuses the token of {place} \(401\): Request unauthenticated") as told:
        start(KfpClient(endpoint.url, token_file=place, policy=patient()))
    assert endpoint.tokens == ["Bearer wrong"] and "wrong" not in str(told.value)
    with pytest.raises(EvermodelError, match=r"a call without a token \(kfp_token_file\)"):
        start(KfpClient(endpoint.url, policy=patient()))


def test_nobody_there_is_said_in_the_end() -> None:
    with kubeflow() as gone:
        pass
    with pytest.raises(EvermodelError, match=r"doesn't answer.*given up after 60 s"):
        start(KfpClient(gone.url, policy=patient()))


def test_a_recurring_run_makes_up_for_nothing_and_is_there_once(client: KfpClient, endpoint: Endpoint) -> None:
    version = client.version("monitoring", PACKAGE, "d" * 64)
    kept = client.schedule("monitoring-fraud", version, HOURLY, {"use_case": "fraud"})
    assert (kept.no_catchup, kept.max_concurrency, kept.mode) == (True, "1", "ENABLE")
    assert client.schedule("monitoring-fraud", version, HOURLY, {"use_case": "fraud"}) == kept
    endpoint.faults = ["lost"]
    moved = client.schedule("monitoring-fraud", version, "0 30 * * * *", {"use_case": "fraud"})
    assert [one.recurring_run_id for one in endpoint.stored["recurringruns"]] == [moved.recurring_run_id]
    client.schedule("monitoring-other", version, HOURLY, {"use_case": "other"})
    assert len(endpoint.stored["recurringruns"]) == 2


def test_a_run_is_named_by_its_key_or_by_all_that_it_is_asked(tmp_path: Path) -> None:
    assert kfp.run_name("training", ASKED) == "training-0123456789abcdef"
    keyless = {"use_case": "fraud", "now": "2026-01-01", "owner": "a"}
    assert kfp.run_name("monitoring", keyless) == kfp.run_name("monitoring", {**keyless, "owner": "b"})
    assert kfp.run_name("monitoring", keyless) != kfp.run_name("monitoring", {**keyless, "now": "2026-01-02"})
    with pytest.raises(InputError, match="set kfp_endpoint"):
        kfp.connect(Profile(root=tmp_path))


def test_the_program_submits_waits_and_schedules(endpoint: Endpoint) -> None:
    """`python -m pipelines submit|schedule`, as a person or the launcher starts it."""
    endpoint.states = ["SUCCEEDED"]

    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "KFP_ENDPOINT": endpoint.url,
            "EVERMODEL_PLATFORM": "tests/pipelines/platform.yaml",
        }
        command = [sys.executable, "-m", "pipelines", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = program("submit", "--wait", "training", "use_case=fraud", "retrain_key=k")
    assert (done.returncode, done.stdout) == (0, "runs-1\n"), done.stderr
    assert done.stderr.endswith("run training-k (runs-1): SUCCEEDED\n")
    (run,) = endpoint.stored["runs"]
    assert run.service_account == "evermodel-pipeline" and run.runtime_config.parameters["now"]
    endpoint.states = ["CANCELED"]
    failed = program("submit", "--wait", "training", "use_case=fraud", "retrain_key=other")
    assert failed.returncode == 1 and failed.stderr.endswith("error: run training-other (runs-2) ended CANCELED\n")
    planned = program("schedule", "monitoring", "use_case=/etc/fraud.yaml", "--cron", HOURLY)
    assert planned.stdout == "recurringruns-1\n", planned.stderr
    (recurring,) = endpoint.stored["recurringruns"]
    assert recurring.display_name == "monitoring-fraud"
    assert recurring.runtime_config.parameters == {"use_case": "/etc/fraud.yaml"}, "each run reads the clock itself"
    assert endpoint.packages[0][1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
