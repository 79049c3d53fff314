"""What the limit is for, on a simulated model: questions wait in line, and one that is given up is worked on all the same."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from evermodel.serving.concurrency_limit import Limit

DEADLINE = 0.5


def answered(limit: Limit | None, *, rate: float, service: float, seconds: float = 60.0) -> float:
    """The share of questions, asked evenly, that a model which needs `service` seconds for each answers in time."""
    free, asked, good = 0.0, 0, 0
    line: deque[tuple[float, bool]] = deque()  # when each that waits is answered or given up, and whether it is late
    for number in range(int(rate * seconds)):
        now = number / rate
        while line and line[0][0] <= now:
            _, late = line.popleft()
            if limit is not None:
                limit.give_back(late=late)
        asked += 1
        if limit is not None and not limit.take():
            continue
        free = max(free, now) + service
        late = free - now > DEADLINE
        good += not late
        line.append((min(free, now + DEADLINE), late))
    for _, late in line:
        if limit is not None:
            limit.give_back(late=late)
    return good / asked


def test_an_overloaded_model_answers_what_it_can_and_without_the_limit_nothing() -> None:
    enough = {"rate": 50.0, "service": 0.04}  # it could answer half of them
    assert answered(None, **enough) < 0.05
    assert answered(Limit(200), **enough) > 0.4


def test_a_model_that_is_fast_enough_is_asked_everything() -> None:
    assert answered(Limit(200), rate=50.0, service=0.015) == 1.0


def test_it_is_asked_everything_again_soon_after_it_was_slow() -> None:
    limit = Limit(200)
    answered(limit, rate=50.0, service=0.2, seconds=20.0)
    assert limit.now < 5
    assert answered(limit, rate=50.0, service=0.015, seconds=10.0) > 0.95


@given(st.integers(1, 50), st.lists(st.sampled_from(["ask", "in time", "late"])))
def test_it_stays_between_one_and_most(most: int, steps: list[str]) -> None:
    limit = Limit(most)
    for step in steps:
        if step == "ask":
            room = limit.asking < limit.now
            assert limit.take() == room
        elif limit.asking:
            limit.give_back(late=step == "late")
        assert 1 <= limit.now <= most and 0 <= limit.asking <= most
