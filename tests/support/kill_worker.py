"""Kills work at each of its durable steps in turn and runs it again: whatever the step, the same must be left.

For a process that has done nothing else: it forks, and threads don't survive that.
"""

import os
import sys
from collections.abc import Callable

Step = Callable[[str], object]


def at_each_step(root: str, work: Step, check: Step, *, reopen: Step | None = None) -> int:
    """Runs `work`, dead at its first, second, … durable step and then whole, each in a folder of its own, and `check`.

    `reopen` must find its way in what a crash left, before the work is done again. The number of the run that got
    through.
    """
    for ordinal in range(1, 100):
        folder = f"{root}/{ordinal}"
        died = _status(work, folder, failpoint=ordinal)
        if died:
            assert os.WTERMSIG(died) == 9, died
            assert reopen is None or _status(reopen, folder) == 0, "what a crash leaves can be read"
            assert _status(work, folder) == 0
        assert _status(check, folder) == 0
        if not died:
            return ordinal
    raise AssertionError("it never got through")


def _status(step: Step, folder: str, failpoint: int | None = None) -> int:
    """How a child that does the step alone ends."""
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
