"""A small loop is killed at every durable step and run again: one champion, one run for each key, no event lost or doubled.

The loop (`small_loop.py`) is 2,000 events and two training rounds. `crashes.py` kills and checks it in forks of one
process, two at a time. It kills at all of about 180 durable steps, in a minute and a half on two idle cores;
EVERMODEL_CRASH_EVERY=7 tries every seventh. Switched-off safeguards show that the checks find faults.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.waiting import scaled

EVERY = int(os.environ.get("EVERMODEL_CRASH_EVERY", "1"))
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(scaled(900))]  # of the fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory if the machine has a file system for it: a killed process loses nothing that it has written."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("crashes")
        return
    with TemporaryDirectory(dir=memory, prefix="evermodel-crashes-") as place:
        yield Path(place)


@pytest.fixture(scope="module")
def crashes(folder: Path) -> dict[str, Any]:
    program = Path(__file__).with_name("crashes.py")
    command = [sys.executable, str(program), str(folder), "--every", str(EVERY)]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def test_a_loop_that_is_killed_at_any_durable_step_finishes_when_it_is_run_again(crashes: dict[str, Any]) -> None:
    steps = crashes["steps"]
    print(f"{len(steps)} crashes, {crashes['seconds']} s, {crashes['cpu_seconds']} s of processors")
    wrong = {f"{step['step']} {step['name']}": step["problems"] for step in steps if step["problems"]}
    assert not wrong
    assert [step["step"] for step in steps] == list(range(1, steps[-1]["step"] + 1, EVERY)), "a step is missing"
    assert steps[-1]["step"] > 100


@pytest.mark.skipif(EVERY > 1, reason="EVERMODEL_CRASH_EVERY leaves steps out")
def test_the_steps_are_those_of_every_stage(crashes: dict[str, Any]) -> None:
    names = {step["name"] for step in crashes["steps"]}
    stages = {name.partition(".")[0] for name in names}
    assert stages == {"bundle", "events", "ingest", "ledger", "request_log", "storage", "train"}
    for step in ("claim", "start_run", "record_release", "promote", "finish_run", "record_window", "record_alert"):
        assert {f"ledger.{step}.before_commit", f"ledger.{step}.after_commit"} <= names


@pytest.mark.parametrize(
    ("safeguard", "seen"),
    [
        ("data is written before its commit", "a committed file of readings is gone"),
        ("a file is renamed into place", "_commits/00000001.json can't be read"),
        ("a batch is known by its id and a row by its key", "events: 3500, not 2000"),
        ("a dead owner's lease is released", "there is no champion"),
    ],
)
def test_a_safeguard_that_is_off_is_seen(crashes: dict[str, Any], safeguard: str, seen: str) -> None:
    assert any(seen in problem for problem in crashes["safeguards"][safeguard]), crashes["safeguards"][safeguard]
