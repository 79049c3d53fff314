"""`failpoint("name")` stands at every durable step; a test kills the process at the 1st, 2nd, … until none is hit.

Nothing happens unless EVERMODEL_FAILPOINT holds the ordinal at which to die, or `NAME:ORDINAL`, which counts that name
alone. The count is one process's own. EVERMODEL_FAILPOINT_LOG names a file that takes the name of the one that was hit;
a name that it holds already isn't died at again, so that what is started after a death gets past it.
"""

import os
import signal
from collections import Counter

_hits: Counter[str] = Counter()
_pid = 0


def failpoint(name: str) -> None:
    """Die here by SIGKILL if this is the N-th durable step and EVERMODEL_FAILPOINT says N."""
    armed = os.environ.get("EVERMODEL_FAILPOINT")
    if not armed:
        return
    global _pid
    if _pid != os.getpid():  # a fork starts to count anew
        _hits.clear()
        _pid = os.getpid()
    wanted, _, ordinal = armed.rpartition(":")
    if wanted and wanted != name:
        return
    _hits[wanted] += 1
    if _hits[wanted] == int(ordinal):
        log = os.environ.get("EVERMODEL_FAILPOINT_LOG")
        if wanted and log and os.path.exists(log) and name in _lines(log):
            return
        if log:
            with open(log, "a") as file:
                file.write(name + "\n")
        os.kill(os.getpid(), signal.SIGKILL)


def _lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()
