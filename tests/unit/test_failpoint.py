"""A failpoint kills at the ordinal that it is told, counted in each process for itself."""

import os
import signal

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


def test_nothing_happens_where_it_is_not_armed() -> None:
    assert "EVERMODEL_FAILPOINT" not in os.environ
    failpoint("here")


def test_a_fork_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERMODEL_FAILPOINT", "1000000")
    for _ in range(5):
        failpoint("in the parent, armed far away")
    assert _dies_at(3, tries=3), "the parent's five hits are not the child's"
    assert not _dies_at(4, tries=3)
