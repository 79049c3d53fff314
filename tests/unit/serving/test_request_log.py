from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evermodel.errors import DataError
from evermodel.records import Window
from evermodel.serving.request_log import RequestLog, feature_types, served_schema, served_table
from tests.unit.serving.serving_cases import NOW, guide, shop


def rows(*ids: str, at: datetime = NOW, **values: Any) -> pa.Table:
    return served_table(shop(), [{"prediction_id": name, "event_time": at, **values} for name in ids])


def ids(table: pa.Table) -> list[str]:
    return list(table["prediction_id"].to_pylist())


def test_flushed_rows_are_read_once_and_in_order(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    log.append(rows("b", at=NOW + timedelta(days=1)))
    log.append(rows("a", "c", score=0.5))
    assert ids(RequestLog(str(tmp_path)).read()) == []
    assert (log.flush(), log.flush(), log.waiting) == (3, 0, 0)
    assert ids(RequestLog(str(tmp_path)).read()) == ["a", "c", "b"]
    assert RequestLog(str(tmp_path)).read().schema == served_schema(shop())


def test_a_prediction_logged_twice_counts_once_the_first_time(tmp_path: Path) -> None:
    first, second = RequestLog(str(tmp_path)), RequestLog(str(tmp_path))
    first.append(rows("a", score=1.0))
    second.append(rows("a", score=2.0, at=NOW + timedelta(seconds=1)))
    first.flush(), second.flush()
    assert first.read()["score"].to_pylist() == [1.0]


def test_a_window_is_half_open_and_other_dates_are_not_read(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    start = datetime(2026, 1, 30, tzinfo=UTC)
    for i, at in enumerate(
        [start - timedelta(microseconds=1), start, start + timedelta(hours=23), start + timedelta(days=1)]
    ):
        log.append(rows(str(i), at=at))
    log.flush()
    unread = next(tmp_path.glob("date=2026-01-29/*.parquet"))
    unread.write_bytes(b"no Parquet file: reading this date would fail")
    assert ids(log.read(Window(start=start, end=start + timedelta(days=1)))) == ["1", "2"]


def test_shadows_are_read_only_when_asked_for(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path))
    log.append(rows("a", shadow=False))
    log.append(rows("a/shadow", shadow=True))
    log.flush()
    assert (ids(log.read()), ids(log.read(shadow=True))) == (["a"], ["a", "a/shadow"])


def test_a_flush_is_due_after_enough_rows_or_time(tmp_path: Path) -> None:
    time = [0.0]
    log = RequestLog(str(tmp_path), flush_rows=2, flush_seconds=5, clock=lambda: time[0])
    time[0] = 100.0
    assert not log.is_due  # nothing waits
    log.append(rows("a"))
    assert log.is_due
    log.flush()
    log.append(rows("b"))
    assert not log.is_due
    log.append(rows("c"))
    assert log.is_due


def test_no_row_is_lost_while_storage_is_down_until_too_many_wait(tmp_path: Path) -> None:
    root = tmp_path / "log"
    root.write_text("a file where the folder should be")
    log = RequestLog(str(root), max_waiting=2)
    log.append(rows("a"))
    with pytest.raises(OSError):
        log.flush()
    log.append(rows("b"))
    log.append(rows("c"))
    assert (log.waiting, log.dropped) == (2, 1)
    root.unlink()
    assert log.flush() == 2
    assert ids(log.read()) == ["b", "c"]


def test_a_row_without_a_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="event_time"):
        RequestLog(str(tmp_path)).append(pa.table({"prediction_id": ["a"]}))


def test_the_schema_has_request_features_and_scores_but_no_label() -> None:
    names = served_schema(shop()).names
    assert {"user_id", "country", "views_1d", "device_country", "score", "score:buy", "score:earn", "bundles"} <= set(
        names
    )
    assert "next" not in served_schema(guide()).names
    types = feature_types(shop())
    assert (types["device_country"], types["views_1d"], types["position"]) == (pa.string(), pa.float64(), pa.int64())
