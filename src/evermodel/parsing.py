"""Values from the texts of users and orchestrators. An empty text is an absent value; a bad one is an InputError."""

import json
from datetime import UTC, datetime

from pydantic import ValidationError

from evermodel import clock
from evermodel.errors import InputError
from evermodel.records import Window


def parse_time(text: str) -> datetime:
    """An ISO 8601 time with a zone, in UTC."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no ISO 8601 time; write 2026-01-31T12:00:00Z") from None
    if value.tzinfo is None:
        raise InputError(f"time {text!r} has no zone; write it with Z or an offset")
    return value.astimezone(UTC)


def parse_time_or_now(text: str) -> datetime:
    """The time that `text` states, or the present if it is empty: a scheduled run reads the clock once, for all steps."""
    return parse_time(text) if text else clock.now()


def parse_window(text: str) -> Window | None:
    """The window of `START..END` or of a window's JSON; None if the text is empty."""
    if not text:
        return None
    try:
        if text.lstrip().startswith("{"):
            return Window.from_json(text)
        start, dots, end = text.partition("..")
        if not (dots and start.strip() and end.strip()):
            raise InputError(f"window {text!r}: write START..END in ISO 8601, half-open")
        return Window(start=parse_time(start), end=parse_time(end))
    except ValidationError as error:
        raise InputError(f"window {text!r}: {error.errors()[0]['msg']}") from None


def parse_windows(text: str) -> tuple[Window, ...]:
    """The windows of a JSON list, or of `START..END` joined by commas; none if the text is empty."""
    if not text:
        return ()
    if text.lstrip().startswith("["):
        try:
            windows = [parse_window(json.dumps(item)) for item in json.loads(text)]
        except json.JSONDecodeError as error:
            raise InputError(f"windows {text!r}: {error}") from None
    else:
        windows = [parse_window(part.strip()) for part in text.split(",")]
    return tuple(window for window in windows if window is not None)
