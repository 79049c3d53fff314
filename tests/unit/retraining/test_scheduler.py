"""The scheduler runs the monitoring pipeline of each use case that has a champion."""

from __future__ import annotations

from pathlib import Path

import pytest

from evermodel.ledger import Ledger
from evermodel.profile import Profile
from evermodel.records import BundleRef, Release
from evermodel.retraining import scheduler
from tests.support.pump_use_case import LIVE, NAME, write_use_case

NOW = LIVE[0].end


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A project whose `pipelines` print their arguments."""
    write_use_case(tmp_path)
    (tmp_path / "evermodel.yaml").write_text("")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\n")
    (tmp_path / ".evermodel").mkdir()
    monkeypatch.setenv("EVERMODEL_PROJECT", str(tmp_path))
    return Profile(root=tmp_path)


def set_champion(profile: Profile) -> None:
    part = BundleRef(objective="failed", uri=str(profile.root / "bundle"), digest="d" * 64)
    release = Release(
        use_case=NAME, bundles=(part,), weights={"failed": 1.0}, cursor=NOW, created=NOW, home=str(profile.root)
    )
    ledger = Ledger(profile.ledger_url)
    ledger.promote(release, expected=None, verdict=None, action="promote", reason="", actor="test", now=NOW)


def test_without_a_champion_there_is_nothing_to_monitor(profile: Profile) -> None:
    assert scheduler.run_monitoring(profile, NAME, now=NOW) == "pumps: no champion to monitor yet"
    assert not (profile.scratch_folder / "runs").exists()


def test_each_use_case_is_monitored_and_a_wrong_name_is_reported(
    profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    set_champion(profile)
    assert scheduler.main(["pimps", NAME, "--now", NOW.isoformat()]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: pimps: ") and lines[1] == "pumps: no decision"
    (log,) = (profile.scratch_folder / "runs").iterdir()
    uri = profile.root / "use_cases" / "pumps.yaml"
    assert log.read_text() == f"['run', 'monitoring', 'use_case={uri}', 'now={NOW.isoformat()}']\n"
