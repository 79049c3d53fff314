"""Kills work at each of its durable steps in turn and runs it again: the result must be the same for every step.

Only for a process that has started no threads, because it forks.
"""

import os
import sys
from collections.abc import Callable

Step = Callable[[str], object]


def at_each_step(root: str, work: Step, check: Step, *, reopen: Step | None = None) -> int:
    """Run `work` in a new folder, killed at its first, second, … durable step; then run it whole there, and `check`.

    `reopen` must succeed on the state that the crash left. Returns the number of the first run that finished.
    """
    for ordinal in range(1, 100):
        folder = f"{root}/{ordinal}"
        died = _status(work, folder, failpoint=ordinal)
        if died:
            assert os.WTERMSIG(died) == 9, died
            assert reopen is None or _status(reopen, folder) == 0, "the state that a crash leaves can be read"
            assert _status(work, folder) == 0
        assert _status(check, folder) == 0
        if not died:
            return ordinal
    raise AssertionError("the work never finished")


def _status(step: Step, folder: str, failpoint: int | None = None) -> int:
    """The wait status of a child that runs the step."""
    sys.stdout.flush()
    if (pid := os.fork()) != 0:
        return os.waitpid(pid, 0)[1]
    if failpoint is not None:
        os.environ["EVERMODEL_FAILPOINT"] = str(failpoint)
    try:
        step(folder)
        sys.stdout.flush()  # _exit doesn't
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
