"""What the demo remembers and tells, without the demo."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermodel.artifacts import Decision, Window
from evermodel.data.simulator import Simulator
from evermodel.demo import NAME, Demo, _tell_day
from evermodel.journey import Project
from evermodel.profile import Profile

ROOT = Path(__file__).resolve().parents[2]
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
