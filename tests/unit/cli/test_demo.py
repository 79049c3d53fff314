"""The parts of the demo that print, wait and delete, without the demo."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermodel.cli.demo import NAME, Demo, delete_demo, print_decision
from evermodel.cli.demo_processes import register_features, run_server
from evermodel.errors import EvermodelError
from evermodel.profile import Profile
from evermodel.records import Alert, Decision, Window
from evermodel.simulation.simulator import Simulator
from evermodel.workflow import Project
from tests.support import ROOT

DAY = timedelta(days=1)
START = datetime(2026, 1, 19, tzinfo=UTC)


def day(number: int) -> Window:
    return Window(start=START + number * DAY, end=START + (number + 1) * DAY)


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    project = Project(Profile(root=ROOT, state=f"file://{tmp_path}", ledger=f"sqlite:///{tmp_path}/ledger.db"))
    uri, case = project.find(NAME)
    return Demo(project, case, uri, Simulator(case), port=0)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr without their seconds."""
    return [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()]


def test_a_second_quiet_day_prints_the_row_of_the_first(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    """A keep that repeats is one row, at the first day's end: the second day has none of its own."""
    ledger = demo.project.ledger()
    for number in (0, 1):
        keep = Decision(use_case=NAME, at=day(number).end, action="keep", reason="quiet", champion=None)
        ledger.record_decision(keep)
    assert len(ledger.decisions(NAME)) == 1
    for number in (0, 1):
        print_decision(demo, day(number), 0)
    assert printed(capsys) == ["day 01-19: keep: no alerts", "day 01-20: keep: no alerts"]


def test_a_day_with_alerts_prints_the_reason(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = demo.project.ledger()
    alert = Alert(use_case=NAME, kind="performance", window=day(0), champion=None, diagnosis="concept_shift")
    ledger.record_alert(alert, now=day(0).end)
    reason = "900 new rows; 1000 are needed"
    keep = Decision(
        use_case=NAME,
        at=day(0).end,
        action="keep",
        reason=reason,
        champion=None,
        diagnosis="concept_shift",
        alerts=(alert.id,),
    )
    ledger.record_decision(keep)
    print_decision(demo, day(0), 2)
    assert printed(capsys) == [f"day 01-19: keep (concept_shift): {reason} (2 steps from the cache)"]


@pytest.fixture
def broken_profile(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """State in a bucket, and a project that every command refuses, so that each process ends at once."""
    (tmp_path / "evermodel.yaml").write_text("no_such_key: 1\n")
    monkeypatch.chdir(tmp_path)
    state = "s3://bucket/state?endpoint_override=http://127.0.0.1:9&scheme=http"
    return demo.project.profile.model_copy(update={"root": tmp_path, "state": state, "scratch": "scratch"})


def test_the_logs_of_the_processes_are_local_even_if_the_state_is_not(
    broken_profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "scratch" / "runs"
    with register_features(broken_profile):
        pass
    assert f"feast apply failed: see {logs / 'demo-feast.log'}" in capsys.readouterr().err
    with (
        pytest.raises(EvermodelError, match=f"serving ended during its start: see {logs / 'demo-serve.log'}"),
        run_server(broken_profile, NAME, port=9, ray_address="local"),
    ):
        pass
    for name in ("demo-feast.log", "demo-serve.log"):
        assert "unknown key 'no_such_key'" in (logs / name).read_text()


def test_a_fresh_demo_deletes_its_files_in_the_scratch_folder_too(demo: Demo, tmp_path: Path) -> None:
    project = Project(demo.project.profile.model_copy(update={"scratch": str(tmp_path / "scratch")}))
    files = [tmp_path / "scratch" / name / "file" for name in ("pipelines", "runs", "evidently", "mine")]
    for path in files:
        path.parent.mkdir(parents=True)
        path.touch()
    delete_demo(project, demo.case)
    assert [path.exists() for path in files] == [False, False, False, True]
