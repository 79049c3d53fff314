"""`failpoint("name")` stands at every durable step; a test kills the process at the 1st, 2nd, … until none is hit.

Nothing happens unless EVERMODEL_FAILPOINT holds the ordinal at which to die. The count is one process's own;
EVERMODEL_FAILPOINT_LOG names a file that takes the name of the one that was hit.
"""

import os
import signal

_hits = 0
_pid = 0


def failpoint(name: str) -> None:
    """Die here by SIGKILL if this is the N-th durable step and EVERMODEL_FAILPOINT says N."""
    armed = os.environ.get("EVERMODEL_FAILPOINT")
    if not armed:
        return
    global _hits, _pid
    if _pid != os.getpid():  # a fork starts to count anew
        _hits, _pid = 0, os.getpid()
    _hits += 1
    if _hits == int(armed):
        if log := os.environ.get("EVERMODEL_FAILPOINT_LOG"):
            with open(log, "a") as file:
                file.write(name + "\n")
        os.kill(os.getpid(), signal.SIGKILL)
