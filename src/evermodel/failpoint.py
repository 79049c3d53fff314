"""`failpoint("name")` marks a durable step. A test kills the process at the first step, then the second, and so on.

EVERMODEL_FAILPOINT is the ordinal of the step to die at, or `NAME:ORDINAL`, which counts only steps of that name. If it
is not set, nothing happens. Each process counts its own steps. The name of the step is appended to the file of
EVERMODEL_FAILPOINT_LOG. The process does not die at a name that is in the file, so that a restarted run continues.
"""

import os
import signal
from collections import Counter

_hits: Counter[str] = Counter()
_pid = 0


def failpoint(name: str) -> None:
    """Die by SIGKILL if this is the step that EVERMODEL_FAILPOINT selects."""
    armed = os.environ.get("EVERMODEL_FAILPOINT")
    if not armed:
        return
    global _pid
    if _pid != os.getpid():  # a fork starts its own count
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
