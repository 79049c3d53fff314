"""Leases: one run of a key at a time; an owner that is gone is noticed, one that may live isn't."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermodel.ledger import Ledger, lease

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture(scope="module")
def dead() -> str:
    """An owner on this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return f"cli@{socket.gethostname()}:{child.pid}:1"


def begin(ledger: Ledger, key: str, owner: str, now: datetime = NOW) -> bool:
    return lease.start_leased_run(ledger, key, use_case="shop", decision_id=None, owner=owner, now=now, seconds=60)


def test_this_process_lives(dead: str) -> None:
    assert not lease.is_gone(lease.this_process("cli"))
    assert lease.is_gone(dead)


def test_a_pid_given_out_again_is_another_owner() -> None:
    name, _, _start = lease.this_process("cli").rpartition(":")
    assert lease.is_gone(f"{name}:1")


@pytest.mark.parametrize("owner", [f"cli@elsewhere:{2**22}:1", "pipeline", "workflow-7f3a", "cli@host", "a@b:c:d"])
def test_of_others_nothing_is_known(owner: str) -> None:
    assert not lease.is_gone(owner)


def test_a_process_that_ended_and_was_not_waited_for_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    try:
        assert lease.is_gone(f"cli@{socket.gethostname()}:{pid}:1")
    finally:
        os.waitpid(pid, 0)


def test_one_begins(ledger: Ledger) -> None:
    assert begin(ledger, "k", "one")
    assert not begin(ledger, "k", "two")
    assert not begin(ledger, "k", "one"), "asked twice it is one run"
    held = ledger.lease("k")
    assert held is not None
    assert held.owner == "one", "and the lease is kept for the run that is there"


def test_a_dead_owner_is_followed_at_once(ledger: Ledger, dead: str) -> None:
    assert begin(ledger, "k", dead)
    assert begin(ledger, "k", lease.this_process("cli"))
    (run,) = ledger.runs("shop")
    assert run.attempt == 2


def test_a_dead_owner_that_had_only_claimed_is_followed_at_once(ledger: Ledger, dead: str) -> None:
    ledger.claim_lease("k", owner=dead, now=NOW, seconds=60)
    assert begin(ledger, "k", "two")


def test_an_unknown_owner_is_followed_when_its_time_is_over(ledger: Ledger) -> None:
    assert begin(ledger, "k", "workflow-1")
    assert not begin(ledger, "k", "workflow-2", NOW + timedelta(seconds=59))
    assert begin(ledger, "k", "workflow-2", NOW + timedelta(seconds=60))


def test_a_finished_key_is_left_alone(ledger: Ledger) -> None:
    assert begin(ledger, "k", "one")
    ledger.finish_run("k", state="held", result={}, now=NOW)
    assert not begin(ledger, "k", "two")
    assert ledger.lease("k") is None, "a refusal leaves no lease behind"


def test_another_key_waits(ledger: Ledger, dead: str) -> None:
    assert begin(ledger, "k1", "one")
    assert not begin(ledger, "k2", "two")
    assert ledger.lease("k2") is None
    ledger.finish_run("k1", state="failed", result={}, now=NOW)
    assert begin(ledger, "k2", dead)
    assert lease.release_dead_leases(ledger, "shop") == ["k2"]
    assert lease.release_dead_leases(ledger, "shop") == []
