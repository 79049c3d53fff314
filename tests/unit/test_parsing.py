"""Values from the texts of users and orchestrators."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from evermodel import clock
from evermodel.errors import InputError
from evermodel.parsing import parse_time, parse_time_or_now, parse_window, parse_windows
from evermodel.records import Window, canonical_json

MAY = datetime(2026, 5, 1, tzinfo=UTC)
WEEK = Window(start=MAY, end=MAY + timedelta(days=7))


@pytest.mark.parametrize("text", ["2026-05-01T00:00:00Z", "2026-05-01T00:00:00+00:00", "2026-05-01T02:00:00+02:00"])
def test_a_time_of_any_zone_is_converted_to_utc(text: str) -> None:
    assert parse_time_or_now(text) == MAY
    assert parse_time_or_now(text).tzinfo is UTC


def test_an_empty_time_is_the_present() -> None:
    before = clock.now()
    assert before <= parse_time_or_now("") <= clock.now()


def test_a_window_is_read_as_it_is_printed() -> None:
    assert parse_window("2026-05-01T00:00:00Z..2026-05-08T00:00:00Z") == WEEK
    assert parse_window(str(WEEK)) == WEEK, "as in a log"
    assert parse_window(WEEK.to_json()) == WEEK, "as between components"
    assert parse_window("") is None


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_time, "tomorrow", "'tomorrow' is no ISO 8601 time; write 2026-01-31T12:00:00Z"),
        (parse_time, "2026-05-01T00:00:00", "has no zone; write it with Z or an offset"),
        (parse_time, "2026-05-01", "has no zone"),
        (parse_window, "2026-05-01T00:00:00Z", "write START..END in ISO 8601, half-open"),
        (parse_window, "2026-05-08T00:00:00Z..2026-05-01T00:00:00Z", "is not before its end"),
        (parse_window, "2026-05-01T00:00:00Z..", "write START..END"),
        (parse_window, "..2026-05-01T00:00:00Z", "write START..END"),
        (parse_window, '{"start": "2026-05-01T00:00:00Z"}', "Field required"),
        (parse_window, "{start}", "Invalid JSON"),
        (parse_windows, "[", "windows? "),
        (parse_windows, "[1]", "windows? "),
        (parse_windows, '["2026-05-01T00:00:00Z"]', "windows? "),
    ],
)
def test_a_text_without_a_value_is_an_error(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_several_windows() -> None:
    other = Window(start=WEEK.end, end=WEEK.end + timedelta(days=1))
    assert parse_windows(f"{WEEK}, {other}") == (WEEK, other)
    assert parse_windows(canonical_json([window.model_dump(mode="json") for window in (WEEK, other)])) == (WEEK, other)
    assert parse_windows("") == parse_windows("[]") == ()
