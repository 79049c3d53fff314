"""Waits by condition, never by a fixed time.

The environment variable EVERMODEL_TEST_PATIENCE (default 1) multiplies every limit: set it to 4 on a machine that is
four times slower or busier than a free laptop.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
POLL_SECONDS = 0.05


def scaled(seconds: float) -> float:
    """The limit on this machine."""
    return seconds * float(os.environ.get("EVERMODEL_TEST_PATIENCE", "1"))


def wait_until(condition: Callable[[], Value], seconds: float, what: str | Callable[[], str]) -> Value:
    """Returns the first true value of `condition`; fails with `what` if there is none within `scaled(seconds)`."""
    end = time.monotonic() + scaled(seconds)
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {scaled(seconds):g} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_SECONDS)
    return value
