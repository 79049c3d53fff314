"""A limit on the prediction requests in flight to the models: as many as the models finish before the deadline.

A model that gets too little CPU finishes all its requests too late, and the work on each is wasted. With fewer requests
it finishes some in time, and the others fall back at once instead of at the deadline. The limit follows what it
observes, as congestion control does: it grows by one for each round of requests that finish in time, and a late request
cuts it to half of those in flight (additive increase, multiplicative decrease: D.-M. Chiu and R. Jain, Computer Networks
and ISDN Systems 17, 1989).
"""

from __future__ import annotations


class ConcurrencyLimit:
    """Between 1 and `maximum`, where it starts. Belongs to one event loop."""

    def __init__(self, maximum: int) -> None:
        self._maximum = self._current = float(maximum)
        self.in_flight = 0

    @property
    def current(self) -> int:
        return int(self._current)

    def acquire(self) -> bool:
        """Whether one more request may start. If so, `release` must follow."""
        if self.in_flight >= self.current:
            return False
        self.in_flight += 1
        return True

    def release(self, *, late: bool) -> None:
        """A request has finished, or is given up as late."""
        if late:
            self._current = max(1.0, min(self._current, self.in_flight / 2))
        else:
            self._current = min(self._maximum, self._current + 1 / self._current)
        self.in_flight -= 1
