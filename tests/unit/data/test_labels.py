"""A label is what followed within its delay; an unknown label is null."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel.clock import from_micros
from evermodel.columns import times_array
from evermodel.data.events import EventLog
from evermodel.data.labels import labels
from evermodel.errors import DataError
from tests.unit.data.shop import shop

MINUTE = 60_000_000
LATE = datetime(1971, 1, 1, tzinfo=UTC)


def minutes(values: list[int]) -> pa.Array:
    return times_array(np.array(values, dtype=np.int64) * MINUTE)


def visits(rows: list[tuple[str | None, str, int]]) -> pa.Table:
    """(visitor, kind, minute)."""
    who, kind, at = (list(column) for column in zip(*rows, strict=True))
    stars = pa.array([3] * len(rows), pa.int64())
    return pa.table(
        {"visitor": pa.array(who, pa.string()), "kind": pa.array(kind), "stars": stars, "event_time": minutes(at)}
    )


def order_log(root: Path, rows: list[tuple[str | None, str, int, int, float | None, str, bool]]) -> EventLog:
    """(visitor, kind, minute, created minute, price, dish, paid)."""
    log = EventLog(str(root))
    if rows:
        who, kind, at, made, price, dish, paid = (list(column) for column in zip(*rows, strict=True))
        log.append(
            "orders",
            pa.table(
                {
                    "visitor": pa.array(who, pa.string()),
                    "kind": pa.array(kind),
                    "price": pa.array(price, pa.float64()),
                    "dish": pa.array(dish),
                    "paid": pa.array(paid),
                    "event_time": minutes(at),
                    "created_time": minutes(made),
                }
            ),
            batch_id="all",
        )
    return log


def found(log: EventLog, spine: pa.Table, now: datetime = LATE) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in labels(shop(), log, spine, now=now).items()}


def test_an_event_within_the_delay_is_the_label(tmp_path: Path) -> None:
    log = order_log(
        tmp_path,
        [
            ("ann", "walk", 159, 159, 9.0, "rice", False),
            ("ann", "walk", 130, 131, 5.0, "soup", False),
            ("ann", "walk", 99, 99, 50.0, "before", True),
            ("ann", "walk", 160, 160, 50.0, "after an hour", True),
            ("ann", "ride", 130, 130, 50.0, "another kind", True),
            ("bob", "walk", 120, 161, 50.0, "created too late", True),
            (None, "walk", 120, 120, 50.0, "of nobody", True),
        ],
    )
    spine = visits([("ann", "walk", 100), ("bob", "walk", 100), (None, "walk", 100), ("cid", "walk", 100)])
    got = found(log, spine)
    assert got["ordered"] == [1.0, 0.0, None, 0.0]
    assert got["revenue"] == [14.0, 0.0, None, 0.0]
    assert got["first_dish"] == ["soup", None, None, None]
    assert got["paid"] == [1.0, 1.0, None, 0.0], "within two hours"
    assert got["rode"] == [0.0] * 4
    assert got["what"] == ["walk"] * 4
    assert got["rating"] == [3.0] * 4


def test_nothing_is_known_before_its_delay(tmp_path: Path) -> None:
    log = order_log(tmp_path, [("ann", "walk", 110, 110, 9.0, "rice", True)])
    spine = visits([("ann", "walk", 100)])

    def known(minute: int) -> set[str]:
        now = from_micros(minute * MINUTE)
        return {name for name, values in found(log, spine, now).items() if values != [None]}

    assert known(99) == set()
    assert known(100) == {"rating"}
    assert known(159) == {"rating"}, "one order says nothing about orders that may follow"
    assert known(160) == {"rating", "ordered", "revenue", "first_dish"}
    assert known(220) == {"rating", "ordered", "revenue", "first_dish", "paid"}
    assert "rode" in known(100 + 24 * 60)
    assert "rode" not in known(99 + 24 * 60)


def test_without_events_every_label_is_negative(tmp_path: Path) -> None:
    got = found(order_log(tmp_path, []), visits([("ann", "walk", 100), (None, "walk", 1)]))
    assert got["ordered"] == [0.0, None]
    assert got["first_dish"] == [None, None]
    empty = visits([("ann", "walk", 100)]).slice(0, 0)
    assert all(values == [] for values in found(order_log(tmp_path, []), empty).values())


ORDERS = st.tuples(
    st.sampled_from(["ann", "bob", None]),
    st.sampled_from(["walk", "ride"]),
    st.integers(0, 300),
    st.integers(0, 90),
    st.sampled_from([1.0, 2.5, None]),
    st.sampled_from(["rice", "soup"]),
    st.booleans(),
)
VISITS = st.tuples(st.sampled_from(["ann", "bob", "cid", None]), st.sampled_from(["walk", "ride"]), st.integers(0, 300))


@settings(max_examples=30, deadline=None)
@given(st.lists(ORDERS, max_size=15), st.lists(VISITS, min_size=1, max_size=8))
def test_labels_equal_a_search_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, orders: list[Any], rows: list[Any]
) -> None:
    orders = [(who, kind, at, at + wait, *rest) for who, kind, at, wait, *rest in orders]
    got = found(order_log(tmp_path_factory.mktemp("log"), orders), visits(rows))
    for index, (who, kind, at) in enumerate(rows):
        followed = sorted(
            (order[2], number, order)
            for number, order in enumerate(orders)
            if order[:2] == (who, kind) and at <= order[2] < at + 60 and order[3] <= at + 60
        )
        if who is None:
            assert got["ordered"][index] is None
            continue
        assert got["ordered"][index] == float(bool(followed))
        assert got["revenue"][index] == sum(order[4] or 0.0 for *_, order in followed)
        assert got["first_dish"][index] == (followed[0][2][5] if followed else None)


def test_a_label_that_can_not_be_computed_is_an_error(tmp_path: Path) -> None:
    case = shop()
    rode = case.label("rode")

    def with_label(**change: Any) -> Any:
        return case.model_copy(update={"labels": (rode.model_copy(update=change),)})

    log, spine = EventLog(str(tmp_path)), visits([("ann", "walk", 100)])
    with pytest.raises(DataError, match="say which value is positive"):
        labels(with_label(positive=None), log, spine, now=LATE)
    with pytest.raises(DataError, match=r"no column 'kinds'; did you mean 'kind'\?"):
        labels(with_label(field="kinds"), log, spine, now=LATE)
    with pytest.raises(DataError, match="holds 0, 1 or null"):
        labels(with_label(field="stars", positive=None), log, spine, now=LATE)
    with pytest.raises(DataError, match=r"'ride' can't equal labels\.rode's field, which is int64"):
        labels(with_label(field="stars", positive="ride"), log, spine, now=LATE)
