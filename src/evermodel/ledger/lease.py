"""Who runs a retrain key: one owner at a time, known by the process it lives in.

An owner `role@host:pid:start` is a process of this machine or another. A lease whose owner is a process of this machine
that is gone is given back at once; of any other owner nothing is known, and its time has to run out.
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
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{_start(os.getpid())}"


def is_gone(owner: str) -> bool:
    """True where the owner is a process of this machine that doesn't live any more."""
    match = _OWNER.match(owner)
    if match is None or match["host"] != socket.gethostname():
        return False
    pid = int(match["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and is somebody else's
    return _start(pid) != int(match["start"])


def _start(pid: int) -> int:
    """When a process started, in ticks since boot, so that a pid that was given out again isn't taken for it; 0 where
    the system doesn't say, or the process has ended and only waits for its parent."""
    place = f"/proc/{pid}/stat"
    if not storage.exists(place):
        return 0
    fields = storage.read_text(place).rpartition(")")[2].split()  # after the name, which may hold anything
    return 0 if fields[0] in "ZX" else int(fields[19])


def release_dead_leases(ledger: Ledger, use_case: str) -> list[str]:
    """Give back the leases whose owners are gone; their keys. What they ran is unfinished, and can be started again."""
    dead = [lease for lease in ledger.leases(use_case) if is_gone(lease.owner)]
    return [lease.key for lease in dead if ledger.release_lease(lease.key, owner=lease.owner)]


def reap_leases(ledger: Ledger, use_case: str, *, now: datetime) -> None:
    """After a crash, before `decide` asks: leases of dead owners are given back, runs that had promoted are ended."""
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
    """Claim the key's lease and start its run: True for exactly one of all that ask, until its owner is gone.

    False leaves nothing behind. It means: somebody else runs it, another key of the use case is running, or it ran.
    """
    reap_leases(ledger, use_case, now=now)
    holder = ledger.lease(key)
    if holder is not None and is_gone(holder.owner):
        ledger.release_lease(key, owner=holder.owner)  # claimed, and gone before a run or a decision had the key
    if not ledger.claim_lease(key, owner=owner, now=now, seconds=seconds):
        return False
    if ledger.start_run(key, use_case=use_case, decision_id=decision_id, owner=owner, now=now):
        return True
    mine = any(run.key == key and run.state == "running" and run.owner == owner for run in ledger.runs(use_case))
    if not mine:
        ledger.release_lease(key, owner=owner)
    return False
