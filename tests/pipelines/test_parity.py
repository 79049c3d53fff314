"""One turn lived by `replay` and the same turn through kfp.local: the same decision, windows, verdict and model digests.

The pipelines are those of a project that `evermodel init` writes, started as a person starts them. Replay has no
orchestrator, no registry and no files between its steps; that nothing depends on them is what is shown.
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
from evermodel.backtest.backtest import replay
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

pytestmark = [pytest.mark.kfp, pytest.mark.slow, pytest.mark.timeout(900)]
FIRST_NOW = LIVE[0].start


@dataclass(frozen=True)
class Life:
    """What a life has left, by either way."""

    promotions: list[Promotion]
    reports: list[EvaluationReport]
    manifests: list[TrainingManifest]
    decisions: list[Decision]


def told(ledger: Ledger) -> Life:
    promotions = ledger.promotions(NAME)
    return Life(
        promotions=promotions,
        reports=[workflow.read_report(row.release) for row in promotions],
        manifests=[bundle.open_bundle(part).manifest for row in promotions for part in row.release.bundles],
        decisions=[one for one in ledger.decisions(NAME) if one.action == "retrain"],
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days: replay retrains at the end of the fifth only if somebody is left to be served."""
    folder = tmp_path_factory.mktemp("data")
    write_readings(folder, readings(days=6))
    return folder


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Life:
    out = tmp_path_factory.mktemp("replay")
    replay(use_case.load(write_use_case(out)), data_dir=data, out=out, policies=["stateful"])
    return told(Ledger(f"sqlite:///{out}/stateful/ledger.db"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Project:
    """A project with the events in its log and nothing else."""
    folder = tmp_path_factory.mktemp("home") / "project"
    write_project(folder, "electricity")
    write_use_case(folder)
    found = Project.open(folder)
    workflow.ingest(found, NAME, data_dir=data, now=FIRST_NOW)
    return found


def start(project: Project, pipeline: str, **parameters: str) -> subprocess.Popen[str]:
    """`python -m pipelines run …`, as a group of processes."""
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
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]
    return said


def serve(project: Project, window: Window) -> None:
    """What replay serves, as the request log gets it: features and scores, without the outcome."""
    _, case = project.find(NAME)
    champion = project.ledger().champion(NAME)
    assert champion is not None
    rows = training_set.build_rows(case, project.log(case), window=window, now=window.end, labelled=False)
    served = score_rows(bundle.open_release(champion), as_served(case, rows.drop_columns(["failed"])))
    ids = pa.array([f"answer-{row}" for row in served["row_id"].to_pylist()], pa.string())
    log = RequestLog(project.profile.place(NAME, "requests"))
    log.append(served.append_column("prediction_id", ids))
    log.flush()


@pytest.fixture(scope="module")
def killed_and_run_again(project: Project) -> str:
    """The first champion; the run is killed when it has trained, and started again."""
    said = ""
    with start(project, "training", now=FIRST_NOW.isoformat()) as process:
        for line in process.stdout or ():
            said += line
            if "Executing task" in line and "'evaluate'" in line:
                os.killpg(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, said[-3000:]
    assert project.ledger().champion(NAME) is None
    return run(project, "training", now=FIRST_NOW.isoformat())


@pytest.fixture(scope="module")
def piped(project: Project, killed_and_run_again: str) -> Life:
    """The quiet day step by step, the other through the monitoring pipeline, which calls the training pipeline."""
    quiet, moved = LIVE
    serve(project, quiet)
    workflow.monitor(project, NAME, window=quiet, now=quiet.end)
    workflow.decide(project, NAME, now=quiet.end)
    serve(project, moved)
    run(project, "monitoring", window=f"{moved.start.isoformat()}..{moved.end.isoformat()}", now=moved.end.isoformat())
    return told(project.ledger())


def test_a_killed_run_takes_its_finished_steps_from_the_cache(project: Project, killed_and_run_again: str) -> None:
    cached = [line for line in killed_and_run_again.splitlines() if " cache hit (key=" in line]
    assert len(cached) == 2, "build_training_set and train; the plan is settled anew, the verdict wasn't reached"
    (first,) = [run for run in project.ledger().runs(NAME) if run.decision is None]
    assert (first.state, first.attempt) == ("promoted", 2)


def test_the_decision_is_the_same(replayed: Life, piped: Life) -> None:
    assert len(replayed.decisions) == 1
    assert piped.decisions == replayed.decisions
    assert piped.decisions[0].retrain_key == replayed.decisions[0].retrain_key


def test_the_models_are_the_same_to_the_last_bit(replayed: Life, piped: Life) -> None:
    digests = [[[part.digest for part in row.release.bundles] for row in life.promotions] for life in (replayed, piped)]
    timeless = [[one.model_copy(update={"seconds": 0.0}) for one in life.manifests] for life in (replayed, piped)]
    assert timeless[0] == timeless[1], "what a manifest says, which explains a digest that differs"
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2


def test_the_verdicts_are_the_same(replayed: Life, piped: Life) -> None:
    words = [
        [report.model_copy(update={"milliseconds_per_row": 0.0}) for report in life.reports]
        for life in (replayed, piped)
    ]
    assert words[0] == words[1]
    assert [report.verdict.word for report in piped.reports] == ["promote", "promote"]
    assert [row.release.id for row in piped.promotions] == [row.release.id for row in replayed.promotions]


def test_the_same_window_monitored_again_starts_no_second_run(project: Project, piped: Life) -> None:
    before = project.ledger().runs(NAME)
    window = f"{LIVE[-1].start.isoformat()}..{LIVE[-1].end.isoformat()}"
    run(project, "monitoring", window=window, now=LIVE[-1].end.isoformat())
    assert project.ledger().runs(NAME) == before
    assert told(project.ledger()) == piped
    assert [report.window for report in project.ledger().monitoring_reports(NAME)] == list(LIVE)


def test_a_finished_key_is_not_granted_again(project: Project, piped: Life) -> None:
    key = project.ledger().runs(NAME)[-1].key
    plan = workflow.plan(project, NAME, now=LIVE[-1].end, key=key)
    before = workflow.read_run(project, NAME, key)
    assert not workflow.claim(project, plan, owner="somebody", now=LIVE[-1].end)
    assert workflow.read_run(project, NAME, key) == before, "the plan of the run that was granted stays"
