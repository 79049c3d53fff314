"""Texts that people and orchestrators give, as values: an empty text is an absent value; a bad one is a InputError."""

import json
from datetime import UTC, datetime

from pydantic import ValidationError

from evermodel.errors import InputError
from evermodel.records import Window


def moment(text: str) -> datetime:
    """An ISO 8601 time with a zone; empty: the clock's. Here a scheduled run reads the time, once, for all its steps."""
    if not text:
        return datetime.now(UTC)
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no ISO 8601 time; write 2026-01-31T12:00:00Z") from None
    if value.tzinfo is None:
        raise InputError(f"time {text!r} has no zone; write it with Z or an offset")
    return value.astimezone(UTC)


def span(text: str) -> Window | None:
    """`START..END`, or a window's JSON; empty: none."""
    if not text:
        return None
    try:
        if text.lstrip().startswith("{"):
            return Window.from_json(text)
        start, dots, end = text.partition("..")
        if not (dots and start.strip() and end.strip()):
            raise InputError(f"window {text!r}: write START..END in ISO 8601, half-open")
        return Window(start=moment(start), end=moment(end))
    except ValidationError as error:
        raise InputError(f"window {text!r}: {error.errors()[0]['msg']}") from None


def spans(text: str) -> tuple[Window, ...]:
    """A JSON list of windows, or `START..END` joined by commas; empty: none."""
    if not text:
        return ()
    if text.lstrip().startswith("["):
        try:
            found = [span(json.dumps(item)) for item in json.loads(text)]
        except json.JSONDecodeError as error:
            raise InputError(f"windows {text!r}: {error}") from None
    else:
        found = [span(part.strip()) for part in text.split(",")]
    return tuple(window for window in found if window is not None)
