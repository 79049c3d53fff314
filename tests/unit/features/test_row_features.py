"""Features of the row itself."""

from datetime import UTC, datetime

import numpy as np

from evermodel.features.row_features import calendar


def test_calendar_parts_agree_with_datetime() -> None:
    times = [datetime(1996, 2, 29, 23, 59, 59, tzinfo=UTC), datetime(1969, 12, 31, 6, 1, tzinfo=UTC)]
    times += [datetime(2018, 6, 17, tzinfo=UTC), datetime(2026, 12, 31, 7, 0, tzinfo=UTC)]
    at = np.array([int(m.timestamp()) * 1_000_000 for m in times], np.int64)
    expected = {
        "hour": [m.hour for m in times],
        "minute_of_day": [m.hour * 60 + m.minute for m in times],
        "weekday": [m.weekday() for m in times],
        "weekend": [m.weekday() >= 5 for m in times],
        "night": [m.hour <= 6 for m in times],
        "day_of_month": [m.day for m in times],
        "month": [m.month for m in times],
        "day_of_year": [m.timetuple().tm_yday for m in times],
    }
    for part, values in expected.items():
        assert calendar(part, at).tolist() == values, part
