"""The clock, and times as integers.

Times are timezone-aware UTC; inside array code they are int64 microseconds since the epoch. `now` is called by the
command line, serving and the scheduler only: every stage takes the time as an argument.
"""

from datetime import UTC, datetime

MICROS_PER_SECOND = 1_000_000


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def micros(time: datetime) -> int:
    """Microseconds since the epoch, exact (no float on the way)."""
    delta = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROS_PER_SECOND + delta.microseconds


def from_micros(value: int) -> datetime:
    """The aware UTC time of `value` microseconds since the epoch."""
    seconds, rest = divmod(int(value), MICROS_PER_SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
