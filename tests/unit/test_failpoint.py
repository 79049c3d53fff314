"""A failpoint kills its process at the given step; each process counts its own steps."""

import os
import signal
from pathlib import Path

import pytest

from evermodel.failpoint import failpoint


def _dies_at(hit: int, *, tries: int) -> bool:
    child = os.fork()
    if child == 0:
        os.environ["EVERMODEL_FAILPOINT"] = str(hit)
        for number in range(tries):
            failpoint(f"step {number}")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_nothing_happens_without_the_variable() -> None:
    assert "EVERMODEL_FAILPOINT" not in os.environ
    failpoint("here")


def test_a_fork_counts_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERMODEL_FAILPOINT", "1000000")
    for _ in range(5):
        failpoint("in the parent, far below the ordinal")
    assert _dies_at(3, tries=3), "the parent's five hits are not the child's"
    assert not _dies_at(4, tries=3)


def test_a_named_step_kills_once_and_a_later_process_passes_it(tmp_path: Path) -> None:
    log = tmp_path / "hit"

    def run_steps() -> int:
        child = os.fork()
        if child == 0:
            os.environ.update(EVERMODEL_FAILPOINT="step 1:2", EVERMODEL_FAILPOINT_LOG=str(log))
            for number in (1, 2, 2, 1, 3):
                failpoint(f"step {number}")
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert [run_steps(), run_steps()] == [-signal.SIGKILL, 7]
    assert log.read_text() == "step 1\n"
