"""As-of joins and feature rows against brute force, with rows injected in the future."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.clock import from_micros
from evermodel.errors import DataError, InputError
from evermodel.features.incremental import Incremental
from evermodel.features.point_in_time import asof_join, feature_rows, incremental_events
from evermodel.features.row_features import row_features
from evermodel.features.window_groups import window_groups
from evermodel.use_case import UseCase, Window
from tests.support.use_cases import make_use_case

TIME = {"event_time": {"field": "event_time"}, "reader": "parquet"}
PER_ITEM = {"kind": "window", "source": "views", "entity": "item"}
PER_USER = {"kind": "window", "source": "orders", "entity": "user", "spans": ["20s"]}
FEATURES: dict[str, dict[str, Any]] = {
    "price": {},
    "views": {**PER_ITEM, "aggregate": "count", "spans": ["5s", "30s"]},
    "bought_rate": {**PER_ITEM, "aggregate": "rate", "field": "bought", "spans": ["30s"], "delay": "10s"},
    "paid": {**PER_USER, "aggregate": "sum", "field": "value", "where": {"kind": "real"}},
    "city": {**PER_USER, "aggregate": "last", "field": "city"},
    "cities": {**PER_USER, "aggregate": "distinct", "field": "city"},
    "seen_before": {"kind": "lag", "source": "views", "entity": "user", "field": "item", "steps": 2},
    "hour": {"kind": "calendar", "part": "hour"},
    "where_what": {"kind": "cross", "of": ["city_20s", "doubled"]},
    "doubled": {"kind": "custom", "of": ["price"], "transform": f"{__name__}:double"},
}


def make_case(*, bought: str = "int", label: dict[str, Any] | None = None, **features: dict[str, Any]) -> UseCase:
    """`bought`: the field's type. `label`, `features`: changed settings of the label and of features."""
    return make_use_case(
        entities={"user": "user", "item": {"key": "item", "type": "int"}},
        source={"name": "views", "path": "views.parquet", **TIME},
        fields={
            "user": {"type": "string", "nullable": True},
            "item": "int",
            "price": {"resolution": 0.01},
            "bought": bought,
        },
        other_sources={
            "orders": {
                **TIME,
                "path": "orders.parquet",
                "created_time": {"field": "created_time"},
                "fields": {
                    "user": "string",
                    "value": {"nullable": True, "resolution": 0.01},
                    "city": {"type": "string", "nullable": True},
                    "kind": "string",
                },
            }
        },
        labels={"bought": {"delay": "10s", **(label or {})}},
        features={name: settings | features.get(name, {}) for name, settings in FEATURES.items()},
        monitoring={"window": "10s"},
    )


def double(columns: dict[str, Any]) -> Any:
    return columns["price"] * 2


@pytest.fixture(scope="module")
def shop() -> UseCase:
    return make_case()


def times(values: Any) -> pa.Array:
    return pa.array(np.asarray(values, np.int64) * 1_000_000).cast(pa.timestamp("us", tz="UTC"))


def shop_events(count: int, seed: int) -> dict[str, pa.Table]:
    """Few entities and few seconds, so many ties; a third of the orders are created after their event time."""
    generator = np.random.default_rng(seed)
    span = count // 2
    when = np.sort(generator.integers(0, span, count))
    views = pa.table(
        {
            "user": pa.array([None if u == 0 else f"u{u}" for u in generator.integers(0, 6, count)], pa.string()),
            "item": generator.integers(0, 5, count),
            "price": generator.integers(1, 500, count) / 100,
            "bought": generator.integers(0, 2, count),
            "event_time": times(when),
            "created_time": times(when),
            "ingest_seq": np.arange(count),
        }
    )
    at = generator.integers(0, span, count)
    late = np.where(generator.random(count) < 0.3, generator.integers(0, 15, count), 0)
    orders = pa.table(
        {
            "user": [f"u{u}" for u in generator.integers(1, 7, count)],
            "value": pa.array([None if v < 40 else v / 100 for v in generator.integers(0, 500, count)], pa.float64()),
            "city": pa.array([[None, "wien", "graz", "linz"][c] for c in generator.integers(0, 4, count)], pa.string()),
            "kind": [["real", "test"][k] for k in generator.integers(0, 2, count)],
            "event_time": times(at),
            "created_time": times(at + late),
            "ingest_seq": generator.permutation(count),
        }
    ).sort_by([("event_time", "ascending"), ("ingest_seq", "ascending")])
    return {"views": views, "orders": orders}


def seconds(value: datetime) -> int:
    return int(value.timestamp())


def visible(
    events: list[dict[str, Any]], row: dict[str, Any], key: str, *, span: float, delay: int, own: bool
) -> list[Any]:
    end = seconds(row["event_time"]) - delay
    found = []
    for event in events:
        order = (seconds(event["event_time"]), event["ingest_seq"])
        before = order < (end, row["row_id"]) if own else order[0] < end
        reached = order[0] >= end - span and seconds(event["created_time"]) <= seconds(row["event_time"])
        if row[key] is not None and event[key] == row[key] and before and reached:
            found.append((order, event))
    return [event for _, event in sorted(found, key=lambda pair: pair[0])]


@pytest.mark.parametrize("seed", [0, 1])
def test_feature_rows_equal_a_brute_force_reading_of_the_use_case(shop, seed):
    events = shop_events(160, seed)
    views, orders = events["views"].to_pylist(), events["orders"].to_pylist()
    rows = feature_rows(shop, events).to_pylist()
    assert [row["row_id"] for row in rows] == list(range(160))
    for row in rows:
        assert row["views_5s"] == len(visible(views, row, "item", span=5, delay=0, own=True))
        past = [event["bought"] for event in visible(views, row, "item", span=30, delay=10, own=True)]
        assert row["bought_rate_30s"] == (sum(past) / len(past) if past else None)
        ordered = visible(orders, row, "user", span=20, delay=0, own=False)
        paid = [round(e["value"] * 100) for e in ordered if e["kind"] == "real" and e["value"] is not None]
        assert row["paid_20s"] == sum(paid) * 0.01
        cities = [event["city"] for event in ordered if event["city"] is not None]
        assert row["city_20s"] == (cities[-1] if cities else None)
        assert row["cities_20s"] == len(set(cities))
        seen = visible(views, row, "user", span=float("inf"), delay=0, own=True)
        assert row["seen_before"] == (seen[-2]["item"] if len(seen) >= 2 else None)
        assert row["doubled"] == row["price"] * 2
        crossed = None if not cities else f"{cities[-1]}|{row['doubled']:g}"
        assert row["where_what"] == crossed


def test_columns_keep_their_order_and_type(shop):
    rows = feature_rows(shop, shop_events(20, 0))
    features = shop.feature_columns()
    assert rows.column_names == ["row_id", "event_time", "user", "item", "bought", *features]
    text = {"city_20s", "where_what"}
    assert {name for name in features if rows.schema.field(name).type == pa.string()} == text
    assert all(rows.schema.field(name).type == pa.float64() for name in features if name not in text)
    assert rows.schema.field("event_time").type == pa.timestamp("us", tz="UTC")


def test_rows_of_a_window_are_the_same_as_of_all(shop):
    events = shop_events(120, 3)
    every = feature_rows(shop, events)
    window = Window(start=from_micros(20_000_000), end=from_micros(41_000_000))
    time = every["event_time"].cast(pa.int64()).to_numpy()
    expected = every.filter(pa.array((time >= 20_000_000) & (time < 41_000_000)))
    assert feature_rows(shop, events, window=window).to_pylist() == expected.to_pylist()


def test_events_created_later_change_no_row(shop):
    events = shop_events(120, 4)
    before = feature_rows(shop, events)
    orders = events["orders"]
    late = orders.set_column(orders.schema.get_field_index("created_time"), "created_time", times([10**6] * 120))
    late = late.set_column(late.schema.get_field_index("ingest_seq"), "ingest_seq", pa.array(np.arange(500, 620)))
    assert feature_rows(shop, {**events, "orders": pa.concat_tables([orders, late])}).equals(before)


def test_the_online_state_gives_the_same_values(shop):
    events = shop_events(150, 5)
    rows = feature_rows(shop, events).to_pylist()
    for group in window_groups(shop):
        state = Incremental(group.measures, same_source=group.same_source, resolutions=group.resolutions)
        state.update(incremental_events(group, events[group.source]))
        for row in rows:
            values = state.value(row[group.key], seconds(row["event_time"]) * 1_000_000, row["row_id"])
            assert values == {name: row[name] for name in values}


def test_groups_share_a_source_an_entity_and_a_filter(shop):
    assert [(g.name, len(g.measures)) for g in window_groups(shop)] == [
        ("views.item", 3),
        ("orders.user.kind=real", 1),
        ("orders.user", 2),
        ("views.user", 1),
    ]
    assert window_groups(shop)[0].reach == 40_000_000
    assert window_groups(shop)[3].reach is None


def test_the_rate_of_a_labels_field_counts_its_positive_value(shop):
    events = shop_events(100, 6)
    one, other = (feature_rows(case, events)["bought_rate_30s"] for case in (shop, make_case(label={"positive": 0})))
    assert [None if value is None else 1 - value for value in one.to_pylist()] == pytest.approx(other.to_pylist())


def test_the_rate_of_a_text_label_counts_its_positive_value():
    case = make_case(bought="string", label={"positive": "1"})
    events = shop_events(100, 6)
    views = events["views"]
    words = views.set_column(views.schema.get_field_index("bought"), "bought", views["bought"].cast(pa.string()))
    found = feature_rows(case, {**events, "views": words})["bought_rate_30s"]
    assert found.equals(feature_rows(make_case(), events)["bought_rate_30s"])


def test_a_positive_value_that_the_field_can_not_have_is_an_error():
    case = make_case(label={"positive": "none"})
    with pytest.raises(DataError, match=r"'none' can't equal .*bought, which is"):
        feature_rows(case, shop_events(5, 0))


def test_features_in_a_circle_are_an_error(shop):
    with pytest.raises(InputError, match="circle"):
        row_features(
            make_case(doubled={"of": ["where_what"]}),
            feature_rows(shop, shop_events(5, 0)).drop_columns(["doubled", "where_what"]),
        )


def test_a_filter_that_can_never_hold_is_an_error():
    case = make_case(bought_rate={"where": {"item": "none"}, "delay": "0s"})
    with pytest.raises(DataError, match="item"):
        feature_rows(case, shop_events(5, 0))


def brute_force(targets: pa.Table, history: pa.Table, ttl: int | None) -> list[Any]:
    by_key: dict[Any, list[Any]] = {}
    for row in history.to_pylist():
        by_key.setdefault((row["key"], row["place"]), []).append(row)
    found = []
    for target in targets.to_pylist():
        at = target["event_time"]
        best = None
        for row in by_key.get((target["key"], target["place"]), []):
            known = row["event_time"] <= at and row["created_time"] <= at
            if known and (
                best is None or (row["event_time"], row["ingest_seq"]) > (best["event_time"], best["ingest_seq"])
            ):
                best = row
        old = best is not None and ttl is not None and (at - best["event_time"]).total_seconds() * 1e6 > ttl
        found.append(None if best is None or old else (best["value"], best["note"]))
    return found


@pytest.mark.parametrize("ttl", [None, 40_000_000])
def test_the_as_of_join_equals_brute_force_with_future_rows(ttl):
    """10,000 history rows: ties, rows after the target, rows with an event time before it and a creation time after it."""
    generator = np.random.default_rng(7)
    count = 10_000
    at = generator.integers(0, 3000, count)
    late = np.where(generator.random(count) < 0.2, generator.integers(0, 2000, count), 0)
    history = pa.table(
        {
            "key": [f"k{k}" for k in generator.integers(0, 20, count)],
            "place": generator.integers(0, 4, count),
            "event_time": times(at),
            "created_time": times(at + late),
            "ingest_seq": generator.permutation(count),
            "value": pa.array([None if v < 0.05 else v for v in generator.random(count)], pa.float64()),
            "note": [f"n{i}" for i in range(count)],
        }
    )
    targets = pa.table(
        {
            "key": [f"k{k}" for k in generator.integers(0, 22, 3000)],
            "place": generator.integers(0, 4, 3000),
            "event_time": times(generator.integers(-10, 3100, 3000)),
        }
    )
    joined = asof_join(targets, history, by=["key", "place"], ttl=ttl)
    assert joined.select(targets.column_names).equals(targets)
    expected = brute_force(targets, history, ttl)
    found = [
        None if note is None else (value, note)
        for value, note in zip(joined["value"].to_pylist(), joined["note"].to_pylist(), strict=True)
    ]
    assert found == expected
    future = asof_join(targets, history.drop_columns(["created_time"]), by=["key", "place"], ttl=ttl)
    assert future["note"].to_pylist() != joined["note"].to_pylist()  # the future rows would be seen


def test_an_as_of_join_with_nothing_to_join_gives_nulls():
    history = pa.table({"key": pa.array([], pa.int64()), "event_time": times([]), "value": pa.array([], pa.float64())})
    targets = pa.table({"key": [1, 2], "event_time": times([1, 2])})
    assert asof_join(targets, history, by=["key"], ttl=None)["value"].to_pylist() == [None, None]
    with pytest.raises(DataError, match="value"):
        asof_join(targets.append_column("value", targets["key"]), history, by=["key"], ttl=None)


def test_a_history_loaded_at_once_is_unknown_before_its_creation():
    count = 5000
    history = pa.table(
        {
            "key": np.zeros(count, np.int64),
            "event_time": times(np.arange(count)),
            "created_time": times(np.full(count, 9000)),
            "value": np.arange(count),
        }
    )
    targets = pa.table({"key": [0, 0], "event_time": times([8999, 9000])})
    assert asof_join(targets, history, by=["key"], ttl=None)["value"].to_pylist() == [None, count - 1]
