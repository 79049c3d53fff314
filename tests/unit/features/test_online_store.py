"""Materialised features equal those of a training row at the same time."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table
from evermodel.errors import FeatureStoreError
from evermodel.features.online_store import OnlineStore, materialize, views
from evermodel.features.packed_store import PackedStore
from evermodel.features.training_set import build_rows
from tests.support.online_shop import CASE, START, shop_log


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return shop_log(tmp_path / "events")


def test_materialised_features_equal_a_training_row_at_that_time(log: EventLog, tmp_path: Path) -> None:
    now = START + timedelta(days=5)
    store = PackedStore(tmp_path / "online.db")
    materialize(CASE, log, store, offline_root=str(tmp_path / "offline"), now=now)
    # the oracle: an event of each user at `now`, whose row the offline path computes
    probes = pa.table(
        {
            "user": [f"u{number}" for number in range(9)],
            "at": pa.array([now] * 9, pa.timestamp("us", "UTC")),
            "paid": [0.0] * 9,
            "page": ["p0"] * 9,
            "bought": [0] * 9,
        }
    )
    ingest_table(CASE, "visits", probes, log, batch_id="probe", now=now)
    wanted = build_rows(CASE, log, window=None, now=now + timedelta(days=1)).slice(400)
    online = OnlineStore(CASE, str(tmp_path / "online.db")).read("user", wanted["user"].to_pylist(), timeout_s=1)
    for name in views(CASE)[0].features:
        assert online[name].to_pylist() == wanted[name].to_pylist(), name


def test_each_materialisation_is_kept_offline(log: EventLog, tmp_path: Path) -> None:
    store = PackedStore(tmp_path / "online.db")
    for day in (3, 4):
        materialize(CASE, log, store, offline_root=str(tmp_path / "offline"), now=START + timedelta(days=day))
    files = sorted((tmp_path / "offline" / "shop__user").rglob("*.parquet"))
    assert [pq.read_table(file)["event_timestamp"][0].as_py() for file in files] == [
        START + timedelta(days=d) for d in (3, 4)
    ]


def test_before_the_first_event_of_a_source_its_features_are_empty(tmp_path: Path) -> None:
    """The ingester refreshes features as soon as one topic has events."""
    log = EventLog(str(tmp_path / "events"), CASE.sources)
    store = PackedStore(tmp_path / "online.db")
    assert materialize(CASE, log, store, offline_root=str(tmp_path / "offline"), now=START) == 0
    read = OnlineStore(CASE, str(tmp_path / "online.db")).read("user", ["u1"], timeout_s=1)
    assert read["page_3d"].to_pylist() == [None]


def test_late_events_are_seen_at_the_same_now(tmp_path: Path) -> None:
    """In simulated time, now is the newest event's time, and doesn't change while another topic's events come in."""
    now, store, full = START + timedelta(days=5), PackedStore(tmp_path / "online.db"), shop_log(tmp_path / "full")
    offline = str(tmp_path / "offline")
    early = EventLog(str(tmp_path / "early"), CASE.sources)
    first = full.read("visits").slice(0, 1).drop_columns(["created_time", "ingest_seq", "event_time"])
    ingest_table(CASE, "visits", first, early, batch_id="early", now=START)
    reader = OnlineStore(CASE, str(tmp_path / "online.db"))
    user = first["user"].to_pylist()
    materialize(CASE, early, store, offline_root=offline, now=now)
    before = reader.read("user", user, timeout_s=1)["visits_3d"][0].as_py()
    materialize(CASE, full, store, offline_root=offline, now=now)
    assert reader.read("user", user, timeout_s=1)["visits_3d"][0].as_py() > (before or 0)


def test_an_earlier_now_does_not_overwrite_a_later_one(log: EventLog, tmp_path: Path) -> None:
    store = PackedStore(tmp_path / "online.db")
    reader = OnlineStore(CASE, str(tmp_path / "online.db"))
    materialize(CASE, log, store, offline_root=str(tmp_path / "offline"), now=START + timedelta(days=4))
    later = reader.read("user", ["u1"], timeout_s=1)
    materialize(CASE, log, store, offline_root=str(tmp_path / "offline"), now=START + timedelta(days=2))
    assert reader.read("user", ["u1"], timeout_s=1).equals(later)


def test_a_value_older_than_the_ttl_is_null_and_keeps_its_time(log: EventLog, tmp_path: Path) -> None:
    now = START + timedelta(days=4)
    materialize(CASE, log, PackedStore(tmp_path / "online.db"), offline_root=str(tmp_path / "offline"), now=now)
    reader = OnlineStore(CASE, str(tmp_path / "online.db"))
    fresh = reader.read("user", ["u1"], timeout_s=1, now=now + timedelta(days=2))
    stale = reader.read("user", ["u1"], timeout_s=1, now=now + timedelta(days=2, microseconds=1))
    assert fresh["visits_3d"][0].as_py() is not None
    assert stale["visits_3d"][0].as_py() is None and stale["page_3d"][0].as_py() is None
    assert stale["event_time"][0].as_py() == now


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    reader = OnlineStore(CASE, str(tmp_path / "none.db"))
    with pytest.raises(FeatureStoreError, match="materialise the features first"):
        reader.read("user", ["u1"], timeout_s=1)
    with pytest.raises(FeatureStoreError, match="did you mean 'user'"):
        reader.read("users", ["u1"], timeout_s=1)
