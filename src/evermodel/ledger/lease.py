"""Leases with owners: one owner at a time runs a retrain key.

An owner `role@host:pid:start` is a process of this machine or of another one. If the owner is a process of this machine
that has ended, its lease is released at once. The state of any other owner is unknown, so its lease has to expire.
"""

from __future__ import annotations

import os
import re
import socket
from datetime import datetime

from evermodel import storage
from evermodel.ledger import Ledger

_OWNER = re.compile(r"^[^@]*@(?P<host>.+):(?P<pid>\d+):(?P<start>\d+)$")


def this_process(role: str) -> str:
    """This process as an owner, such as `cli@laptop:4711:90210`."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{_read_start(os.getpid())}"


def is_gone(owner: str) -> bool:
    """True if the owner is a process of this machine that has ended."""
    match = _OWNER.match(owner)
    if match is None or match["host"] != socket.gethostname():
        return False
    pid = int(match["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # the process is alive and belongs to another user
    return _read_start(pid) != int(match["start"])


def _read_start(pid: int) -> int:
    """When a process started, in ticks since boot: it tells a process from an earlier one with the same pid.

    0 if the system doesn't report it, or if the process has ended and its parent has not waited for it.
    """
    path = f"/proc/{pid}/stat"
    if not storage.exists(path):
        return 0
    fields = storage.read_text(path).rpartition(")")[2].split()  # after the name, which may hold any character
    return 0 if fields[0] in "ZX" else int(fields[19])


def release_dead_leases(ledger: Ledger, use_case: str) -> list[str]:
    """Release the leases whose owners have ended, and return their keys. Their unfinished runs can be restarted."""
    dead = [lease for lease in ledger.leases(use_case) if is_gone(lease.owner)]
    return [lease.key for lease in dead if ledger.release_lease(lease.key, owner=lease.owner)]


def reap_leases(ledger: Ledger, use_case: str, *, now: datetime) -> None:
    """Clear what a crash left: release the leases of dead owners, and close the runs that had promoted already."""
    release_dead_leases(ledger, use_case)
    ledger.close_orphaned_runs(use_case, now=now)


def start_leased_run(
    ledger: Ledger,
    key: str,
    *,
    use_case: str,
    decision_id: str | None,
    owner: str,
    now: datetime,
    seconds: float,
) -> bool:
    """Claim the key's lease and start its run. True for exactly one caller, until that owner has ended.

    False if another owner runs the key, if another key of the use case is running, or if the run is finished. Then the
    ledger is as before.
    """
    reap_leases(ledger, use_case, now=now)
    holder = ledger.lease(key)
    if holder is not None and is_gone(holder.owner):  # it ended before a run or a decision had the key
        ledger.release_lease(key, owner=holder.owner)
    if not ledger.claim_lease(key, owner=owner, now=now, seconds=seconds):
        return False
    if ledger.start_run(key, use_case=use_case, decision_id=decision_id, owner=owner, now=now):
        return True
    own = any(run.key == key and run.state == "running" and run.owner == owner for run in ledger.runs(use_case))
    if not own:
        ledger.release_lease(key, owner=owner)
    return False
