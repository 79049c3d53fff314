"""How many questions the models are asked at a time: as many as they answer before the deadline.

A model that gets too little CPU answers all that it is asked too late, and the work on each is wasted. Asked less it
answers some in time, and the rest fall back at once instead of at the deadline. The limit follows what is seen, as
congestion control does: one more for each round of answers in time, half of those in flight for each that is late
(additive increase, multiplicative decrease: D.-M. Chiu and R. Jain, Computer Networks and ISDN Systems 17, 1989).
"""

from __future__ import annotations


class Limit:
    """Between 1 and `most`, where it starts. One event loop's own."""

    def __init__(self, most: int) -> None:
        self._most = self._now = float(most)
        self.asking = 0

    @property
    def now(self) -> int:
        return int(self._now)

    def take(self) -> bool:
        """Whether one more may be asked; who was told so gives back."""
        if self.asking >= self.now:
            return False
        self.asking += 1
        return True

    def give_back(self, *, late: bool) -> None:
        """The answer came, or is given up as late."""
        if late:
            self._now = max(1.0, min(self._now, self.asking / 2))
        else:
            self._now = min(self._most, self._now + 1 / self._now)
        self.asking -= 1
