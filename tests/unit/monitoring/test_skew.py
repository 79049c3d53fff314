"""Skew is the share of answers whose feature differs from the one recomputed offline for the same event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.monitoring.skew import skew
from tests.support.use_cases import make_use_case

START = datetime(2026, 1, 1, tzinfo=UTC)
CASE = make_use_case(
    fields={
        "visit": "string", "user": "string", "at": "timestamp", "paid": {}, "page": "string", "place": "int", "bought": "int",
    },
    source={"unique": ["visit"]},
    predict={"position": "place"},
    labels={"bought": {}},
    features={"paid": {}, "page": {"encode": "embed"}, "place": {"serve_as": 1}},
    objectives={"buy": "bought"},
)  # fmt: skip


def table(paid: list[float | None], page: list[str | None], *, first: int = 0) -> pa.Table:
    number = len(paid)
    return pa.table(
        {
            "visit": [f"v{first + index}" for index in range(number)],
            "event_time": pa.array(
                [START + timedelta(hours=index) for index in range(number)], pa.timestamp("us", "UTC")
            ),
            "user": ["u"] * number,
            "paid": pa.array(paid, pa.float64()),
            "page": pa.array(page, pa.string()),
            "place": pa.array(range(number), pa.int64()),
        }
    )


def test_the_same_path_has_no_skew() -> None:
    rows = table([1.0, None, 3.0], ["a", None, "c"])
    assert skew(CASE, rows, rows) == {"paid": 0.0, "page": 0.0}


def test_each_feature_has_its_own_share() -> None:
    served = table([1.0, None, 3.0, 4.0], ["a", "b", None, "d"])
    offline = table([1.0, 2.0, 3.0, 4.5], ["a", "b", "c", "d"])
    assert skew(CASE, served, offline) == {"paid": 0.5, "page": 0.25}


def test_only_answers_with_an_event_are_compared() -> None:
    served, offline = table([1.0, 2.0], ["a", "b"]), table([1.0, 9.0], ["a", "z"], first=1)
    assert skew(CASE, served, offline) == {"paid": 1.0, "page": 1.0}, "v1 alone has a pair"
    assert skew(CASE, served, table([1.0], ["a"], first=5)) == {}


def test_a_fixed_column_is_not_compared_and_rows_without_identity_are_an_error() -> None:
    rows = table([1.0], ["a"])
    assert "place" not in skew(CASE, rows, rows)
    with pytest.raises(DataError, match="no visit"):
        skew(CASE, rows.drop_columns(["visit"]), rows)
