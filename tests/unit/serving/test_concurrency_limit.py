"""The limit on a simulated model: requests queue, and the model works also on those that are given up."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from evermodel.serving.concurrency_limit import ConcurrencyLimit

DEADLINE = 0.5


def share_in_time(limit: ConcurrencyLimit | None, *, rate: float, service: float, seconds: float = 60.0) -> float:
    """The share of `rate` requests a second that a model with `service` seconds for each finishes in time."""
    free, sent, in_time = 0.0, 0, 0
    queue: deque[tuple[float, bool]] = deque()  # when each is finished or given up, and whether it is late
    for number in range(int(rate * seconds)):
        now = number / rate
        while queue and queue[0][0] <= now:
            _, late = queue.popleft()
            if limit is not None:
                limit.release(late=late)
        sent += 1
        if limit is not None and not limit.acquire():
            continue
        free = max(free, now) + service
        late = free - now > DEADLINE
        in_time += not late
        queue.append((min(free, now + DEADLINE), late))
    for _, late in queue:
        if limit is not None:
            limit.release(late=late)
    return in_time / sent


def test_an_overloaded_model_finishes_almost_half_with_the_limit_and_almost_none_without() -> None:
    overload = {"rate": 50.0, "service": 0.04}  # it could finish half of them
    assert share_in_time(None, **overload) < 0.05
    assert share_in_time(ConcurrencyLimit(200), **overload) > 0.4


def test_a_model_that_is_fast_enough_gets_every_request() -> None:
    assert share_in_time(ConcurrencyLimit(200), rate=50.0, service=0.015) == 1.0


def test_a_model_that_was_slow_soon_gets_every_request_again() -> None:
    limit = ConcurrencyLimit(200)
    share_in_time(limit, rate=50.0, service=0.2, seconds=20.0)
    assert limit.current < 5
    assert share_in_time(limit, rate=50.0, service=0.015, seconds=10.0) > 0.95


@given(st.integers(1, 50), st.lists(st.sampled_from(["start", "in time", "late"])))
def test_it_stays_between_one_and_its_maximum(maximum: int, steps: list[str]) -> None:
    limit = ConcurrencyLimit(maximum)
    for step in steps:
        if step == "start":
            has_room = limit.in_flight < limit.current
            assert limit.acquire() == has_room
        elif limit.in_flight:
            limit.release(late=step == "late")
        assert 1 <= limit.current <= maximum and 0 <= limit.in_flight <= maximum
