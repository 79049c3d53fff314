"""What the demo remembers and tells, without the demo."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermodel.cli.demo import NAME, Demo, _tell_day, feast_applied, forget, served
from evermodel.errors import EvermodelError
from evermodel.profile import Profile
from evermodel.records import Decision, Window
from evermodel.simulation.simulator import Simulator
from evermodel.workflow import Project
from tests.support import ROOT

DAY = timedelta(days=1)
START = datetime(2026, 1, 19, tzinfo=UTC)


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    project = Project(Profile(root=ROOT, state=f"file://{tmp_path}", ledger=f"sqlite:///{tmp_path}/ledger.db"))
    uri, case = project.find(NAME)
    return Demo(project, case, uri, Simulator(case), port=0)


def test_a_second_quiet_day_is_told_by_the_row_that_already_says_so(
    demo: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    """A keep that repeats is one row, at the first day's end: the second day has none of its own."""
    ledger = demo.project.ledger()
    for number in (1, 2):
        keep = Decision(use_case=NAME, at=START + number * DAY, action="keep", reason="quiet", champion=None)
        ledger.record_decision(keep)
    assert len(ledger.decisions(NAME)) == 1
    for number in (0, 1):
        _tell_day(demo, Window(start=START + number * DAY, end=START + (number + 1) * DAY), 0)
    assert [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()] == [
        "day 01-19: keep (unknown): quiet",
        "day 01-20: keep (unknown): quiet",
    ]


@pytest.fixture
def elsewhere(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Demo:
    """Its state in a bucket; and its project is one that every command refuses, so that what is started ends at once."""
    (tmp_path / "evermodel.yaml").write_text("no_such_key: 1\n")
    monkeypatch.chdir(tmp_path)
    state = "s3://bucket/state?endpoint_override=http://127.0.0.1:9&scheme=http"
    profile = demo.project.profile.model_copy(update={"root": tmp_path, "state": state, "scratch": "scratch"})
    return Demo(Project(profile), demo.case, demo.uri, demo.simulator, port=9)


def test_the_logs_of_what_runs_beside_it_are_local_wherever_the_state_is(
    elsewhere: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "scratch" / "runs"
    with feast_applied(elsewhere):
        pass
    assert f"feast apply failed: see {logs / 'demo-feast.log'}" in capsys.readouterr().err
    with (
        pytest.raises(EvermodelError, match=f"serving ended at its start: see {logs / 'demo-serve.log'}"),
        served(elsewhere, "local"),
    ):
        pass
    for name in ("demo-feast.log", "demo-serve.log"):
        assert "unknown key 'no_such_key'" in (logs / name).read_text()


def test_a_fresh_demo_forgets_what_is_in_the_scratch_folder_too(demo: Demo, tmp_path: Path) -> None:
    project = Project(demo.project.profile.model_copy(update={"scratch": str(tmp_path / "scratch")}))
    left = [tmp_path / "scratch" / name / "file" for name in ("pipelines", "runs", "evidently", "mine")]
    for path in left:
        path.parent.mkdir(parents=True)
        path.touch()
    forget(project, demo.case)
    assert [path.exists() for path in left] == [False, False, False, True]
