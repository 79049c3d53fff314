"""A backtest and kfp.local give the same decision, windows, verdict and model digests on the same data.

The pipelines are those of a project that `evermodel init` writes, started as by a person. A backtest has no
orchestrator, no registry and no files between its steps: the results must not depend on them.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from evermodel import bundle, use_case, workflow
from evermodel.backtest.backtest import run_backtest
from evermodel.execution.launch import environment
from evermodel.features import training_set
from evermodel.features.as_served import as_served
from evermodel.ledger import Ledger
from evermodel.records import Decision, EvaluationReport, Promotion, TrainingManifest, Window
from evermodel.scaffold import write_project
from evermodel.serving.batch import score_rows
from evermodel.serving.request_log import RequestLog
from evermodel.workflow import Project
from tests.support.pump_use_case import LIVE, NAME, readings, write_readings, write_use_case
from tests.support.waiting import scaled

pytestmark = [pytest.mark.kfp, pytest.mark.slow, pytest.mark.timeout(900)]
FIRST_NOW = LIVE[0].start


@dataclass(frozen=True)
class Outcome:
    """The results of a backtest or of pipeline runs, from the ledger."""

    promotions: list[Promotion]
    reports: list[EvaluationReport]
    manifests: list[TrainingManifest]
    decisions: list[Decision]


def read_outcome(ledger: Ledger) -> Outcome:
    promotions = ledger.promotions(NAME)
    return Outcome(
        promotions=promotions,
        reports=[workflow.read_report(row.release) for row in promotions],
        manifests=[bundle.open_bundle(part).manifest for row in promotions for part in row.release.bundles],
        decisions=[decision for decision in ledger.decisions(NAME) if decision.action == "retrain"],
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days, because a backtest retrains at the end of the fifth only if there is a day to serve after it."""
    folder = tmp_path_factory.mktemp("data")
    write_readings(folder, readings(days=6))
    return folder


@pytest.fixture(scope="module")
def backtested(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Outcome:
    out = tmp_path_factory.mktemp("backtest")
    run_backtest(use_case.load(write_use_case(out)), data_dir=data, out=out, policies=["stateful"])
    return read_outcome(Ledger(f"sqlite:///{out}/stateful/ledger.db"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Project:
    """A project with the events in its log and nothing else."""
    folder = tmp_path_factory.mktemp("home") / "project"
    write_project(folder, "electricity")
    write_use_case(folder)
    opened = Project.open(folder)
    workflow.ingest(opened, NAME, data_dir=data, now=FIRST_NOW)
    return opened


def start(project: Project, pipeline: str, **parameters: str) -> subprocess.Popen[str]:
    """`python -m pipelines run …` in a process group of its own."""
    command = [sys.executable, "-m", "pipelines", "run", pipeline, f"use_case={NAME}"]
    return subprocess.Popen(
        [*command, *(f"{name}={value}" for name, value in parameters.items())],
        cwd=project.profile.root,
        env={**environment(project.profile), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(project: Project, pipeline: str, **parameters: str) -> str:
    process = start(project, pipeline, **parameters)
    output, _ = process.communicate(timeout=scaled(600))
    assert process.returncode == 0, output[-3000:]
    return output


def serve(project: Project, window: Window) -> None:
    """Write into the request log what a backtest serves: features and scores, without the label."""
    _, case = project.find(NAME)
    champion = project.ledger().champion(NAME)
    assert champion is not None
    rows = training_set.build_rows(case, project.log(case), window=window, now=window.end, labelled=False)
    served = score_rows(bundle.open_release(champion), as_served(case, rows.drop_columns(["failed"])))
    ids = pa.array([f"prediction-{row}" for row in served["row_id"].to_pylist()], pa.string())
    log = RequestLog(project.profile.place(NAME, "requests"))
    log.append(served.append_column("prediction_id", ids))
    log.flush()


@pytest.fixture(scope="module")
def killed_and_run_again(project: Project) -> str:
    """The output of the run of the first champion, which was killed after training and started again."""
    output = ""
    with start(project, "training", now=FIRST_NOW.isoformat()) as process:
        for line in process.stdout or ():
            output += line
            if "Executing task" in line and "'evaluate'" in line:
                os.killpg(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, output[-3000:]
    assert project.ledger().champion(NAME) is None
    return run(project, "training", now=FIRST_NOW.isoformat())


@pytest.fixture(scope="module")
def piped(project: Project, killed_and_run_again: str) -> Outcome:
    """The day without drift step by step, the other by the monitoring pipeline, which calls the training pipeline."""
    quiet, drifted = LIVE
    serve(project, quiet)
    workflow.monitor(project, NAME, window=quiet, now=quiet.end)
    workflow.decide(project, NAME, now=quiet.end)
    serve(project, drifted)
    run(
        project,
        "monitoring",
        window=f"{drifted.start.isoformat()}..{drifted.end.isoformat()}",
        now=drifted.end.isoformat(),
    )
    return read_outcome(project.ledger())


def test_a_killed_run_takes_its_finished_steps_from_the_cache(project: Project, killed_and_run_again: str) -> None:
    cached = [line for line in killed_and_run_again.splitlines() if " cache hit (key=" in line]
    assert len(cached) == 2, "build_training_set and train; plan_run is never cached, and evaluate had not finished"
    (first,) = [run for run in project.ledger().runs(NAME) if run.decision is None]
    assert (first.state, first.attempt) == ("promoted", 2)


def test_the_decision_is_the_same(backtested: Outcome, piped: Outcome) -> None:
    assert len(backtested.decisions) == 1
    assert piped.decisions == backtested.decisions
    assert piped.decisions[0].retrain_key == backtested.decisions[0].retrain_key


def test_the_models_are_the_same_to_the_last_bit(backtested: Outcome, piped: Outcome) -> None:
    digests = [
        [[part.digest for part in row.release.bundles] for row in outcome.promotions] for outcome in (backtested, piped)
    ]
    timeless = [
        [manifest.model_copy(update={"seconds": 0.0}) for manifest in outcome.manifests]
        for outcome in (backtested, piped)
    ]
    assert timeless[0] == timeless[1], "if digests differ, this difference explains it"
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2


def test_the_verdicts_are_the_same(backtested: Outcome, piped: Outcome) -> None:
    words = [
        [report.model_copy(update={"milliseconds_per_row": 0.0}) for report in outcome.reports]
        for outcome in (backtested, piped)
    ]
    assert words[0] == words[1]
    assert [report.verdict.word for report in piped.reports] == ["promote", "promote"]
    assert [row.release.id for row in piped.promotions] == [row.release.id for row in backtested.promotions]


def test_the_same_window_monitored_again_starts_no_second_run(project: Project, piped: Outcome) -> None:
    before = project.ledger().runs(NAME)
    window = f"{LIVE[-1].start.isoformat()}..{LIVE[-1].end.isoformat()}"
    run(project, "monitoring", window=window, now=LIVE[-1].end.isoformat())
    assert project.ledger().runs(NAME) == before
    assert read_outcome(project.ledger()) == piped
    assert [report.window for report in project.ledger().monitoring_reports(NAME)] == list(LIVE)


def test_a_finished_key_is_not_granted_again(project: Project, piped: Outcome) -> None:
    key = project.ledger().runs(NAME)[-1].key
    plan = workflow.plan(project, NAME, now=LIVE[-1].end, key=key)
    before = workflow.read_run(project, NAME, key)
    assert not workflow.claim(project, plan, owner="another", now=LIVE[-1].end)
    assert workflow.read_run(project, NAME, key) == before, "the plan of the granted run stays"
