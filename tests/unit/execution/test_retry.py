"""Calls are repeated while errors last, states are polled up to a limit, and progress is reported as it changes."""

from collections.abc import Iterator

import pytest

from evermodel.errors import EvermodelError
from evermodel.execution.retry import ProgressLog, poll, retry
from tests.unit.execution.virtual_clock import VirtualClock


def failing(times: int, error: Exception) -> Iterator[Exception | None]:
    yield from [error] * times
    while True:
        yield None


@pytest.mark.parametrize("error", [ConnectionError("down"), FileNotFoundError("gone")])
def test_a_call_is_repeated_until_it_succeeds(error: Exception) -> None:
    outcomes, clock = failing(3, error), VirtualClock()

    def call() -> int:
        if (outcome := next(outcomes)) is not None:
            raise outcome
        return 7

    assert retry(call, clock.policy()) == 7
    assert clock.now == 3 * clock.policy().poll_seconds


def test_a_call_that_fails_for_too_long_is_given_up() -> None:
    def call() -> None:
        raise ConnectionError("down")

    clock = VirtualClock()
    with pytest.raises(EvermodelError, match="down; given up after 60 s"):
        retry(call, clock.policy())
    assert clock.now > 60


def test_another_error_is_not_repeated() -> None:
    clock = VirtualClock()

    def call() -> None:
        raise FileNotFoundError("no token")

    with pytest.raises(FileNotFoundError):
        retry(call, clock.policy(), on=ConnectionError)
    assert clock.now == 0


def test_polling_ends_with_the_condition_or_the_limit() -> None:
    clock = VirtualClock()
    assert poll(lambda: clock.now, lambda now: now >= 10, clock.policy()) == 10
    assert poll(lambda: clock.now, lambda now: now >= 100, clock.policy(), limit_seconds=20) < 100


def test_progress_is_reported_once_for_each_change() -> None:
    lines: list[str] = []
    log = ProgressLog(lines.append, "run k")
    for state in ("PENDING", "RUNNING", "", "RUNNING", "PENDING"):
        log.add(state)
    log.add("epoch 1", kind="progress")
    log.add("PENDING")
    assert lines == ["run k: PENDING", "run k: RUNNING", "run k: PENDING", "run k: epoch 1"]
