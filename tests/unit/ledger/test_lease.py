"""Leases: one run of a key at a time. The lease of an owner that has ended is free; that of an owner that may be alive is not."""

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


def start(ledger: Ledger, key: str, owner: str, now: datetime = NOW) -> bool:
    return lease.start_leased_run(ledger, key, use_case="shop", decision_id=None, owner=owner, now=now, seconds=60)


def test_this_process_is_alive(dead: str) -> None:
    assert not lease.is_gone(lease.this_process("cli"))
    assert lease.is_gone(dead)


def test_a_reused_pid_is_another_owner() -> None:
    name, _, _start = lease.this_process("cli").rpartition(":")
    assert lease.is_gone(f"{name}:1")


@pytest.mark.parametrize("owner", [f"cli@elsewhere:{2**22}:1", "pipeline", "workflow-7f3a", "cli@host", "a@b:c:d"])
def test_an_owner_of_another_form_or_machine_may_be_alive(owner: str) -> None:
    assert not lease.is_gone(owner)


def test_a_process_that_ended_and_was_not_waited_for_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended and stays a zombie
    try:
        assert lease.is_gone(f"cli@{socket.gethostname()}:{pid}:1")
    finally:
        os.waitpid(pid, 0)


def test_one_owner_starts_a_run(ledger: Ledger) -> None:
    assert start(ledger, "k", "one")
    assert not start(ledger, "k", "two")
    assert not start(ledger, "k", "one"), "a second call of the same owner: one run"
    held = ledger.lease("k")
    assert held is not None
    assert held.owner == "one", "the running run keeps its lease"


def test_the_run_of_a_dead_owner_restarts_at_once(ledger: Ledger, dead: str) -> None:
    assert start(ledger, "k", dead)
    assert start(ledger, "k", lease.this_process("cli"))
    (run,) = ledger.runs("shop")
    assert run.attempt == 2


def test_a_lease_that_a_dead_owner_had_only_claimed_is_free_at_once(ledger: Ledger, dead: str) -> None:
    ledger.claim_lease("k", owner=dead, now=NOW, seconds=60)
    assert start(ledger, "k", "two")


def test_the_lease_of_an_unknown_owner_has_to_expire(ledger: Ledger) -> None:
    assert start(ledger, "k", "workflow-1")
    assert not start(ledger, "k", "workflow-2", NOW + timedelta(seconds=59))
    assert start(ledger, "k", "workflow-2", NOW + timedelta(seconds=60))


def test_a_finished_key_is_not_started_again(ledger: Ledger) -> None:
    assert start(ledger, "k", "one")
    ledger.finish_run("k", state="held", result={}, now=NOW)
    assert not start(ledger, "k", "two")
    assert ledger.lease("k") is None, "a refused start leaves no lease"


def test_another_key_waits(ledger: Ledger, dead: str) -> None:
    assert start(ledger, "k1", "one")
    assert not start(ledger, "k2", "two")
    assert ledger.lease("k2") is None
    ledger.finish_run("k1", state="failed", result={}, now=NOW)
    assert start(ledger, "k2", dead)
    assert lease.release_dead_leases(ledger, "shop") == ["k2"]
    assert lease.release_dead_leases(ledger, "shop") == []
