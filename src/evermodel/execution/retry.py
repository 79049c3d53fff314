"""Waiting for other systems: calls that are tried again, states that are polled, progress that is reported."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from evermodel.errors import EvermodelError

Value = TypeVar("Value")
Report = Callable[[str], None]


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait between two tries, and when to give up; a test gives a `sleep` and a `clock` of its own."""

    poll_seconds: float = 2.0
    patience_seconds: float = 600.0  # a server that is away for longer doesn't come back for this run
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def retry(call: Callable[[], Value], policy: RetryPolicy, *, on: type[OSError] = OSError) -> Value:
    """Call until there is no `on` error; EvermodelError after `policy.patience_seconds` of them.

    OSError covers ConnectionError and what object storage raises.
    """
    try:
        return _retrying(policy, policy.patience_seconds, tenacity.retry_if_exception_type(on))(call)
    except tenacity.RetryError as failed:
        cause = failed.last_attempt.exception()
        raise EvermodelError(f"{cause}; given up after {policy.patience_seconds:.0f} s") from None


def poll(
    read: Callable[[], Value], until: Callable[[Value], bool], policy: RetryPolicy, *, limit_seconds: float = math.inf
) -> Value:
    """Read until `until(value)` holds or `limit_seconds` are over; the last value. Errors of `read` are raised."""
    try:
        return _retrying(policy, limit_seconds, tenacity.retry_if_not_result(until))(read)
    except tenacity.RetryError as over:
        value: Value = over.last_attempt.result()
        return value


def _retrying(policy: RetryPolicy, limit_seconds: float, condition: tenacity.retry_base) -> tenacity.Retrying:
    start = policy.clock()
    return tenacity.Retrying(
        retry=condition,
        wait=tenacity.wait_fixed(policy.poll_seconds),
        stop=lambda _: policy.clock() - start > limit_seconds,
        sleep=policy.sleep,
    )


def print_line(message: str) -> None:
    """To stderr, at once: progress isn't the result."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


class ProgressLog:
    """Reports what `name` does, each state once as it changes."""

    def __init__(self, report: Report, name: str) -> None:
        self._report, self._name = report, name
        self._last: dict[str, str] = {}

    def add(self, text: str, *, kind: str = "state") -> None:
        """Report `text` if it isn't empty and differs from the last text of its kind."""
        if text and text != self._last.get(kind):
            self._last[kind] = text
            self._report(f"{self._name}: {text}")
