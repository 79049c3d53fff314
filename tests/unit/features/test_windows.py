"""Windows against a brute-force oracle, and incremental windows against bulk, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel.errors import DataError
from evermodel.features.incremental import Incremental
from evermodel.features.measures import EventArrays, FieldArrays, Measure, TargetRows, quantise
from evermodel.features.point_in_time import incremental_events, window_columns
from evermodel.features.window_groups import window_groups
from evermodel.features.windows import bulk

RESOLUTION = 0.25
AGGREGATES = ("count", "sum", "mean", "rate", "last", "distinct", "lag")


def measures(spans: tuple[int, ...], delay: int, steps: int) -> list[Measure]:
    every = [
        Measure(column=f"{name}_{span}", aggregate=name, field="x", span=span, delay=delay)
        for name in AGGREGATES[:-1]
        for span in spans
    ]
    return [*every, Measure(column="lag", aggregate="lag", field="x", delay=delay, steps=steps)]


def arrays(rows: list[tuple[int, int, int, int | None]], seqs: list[int]) -> EventArrays:
    """rows: (entity, time, lateness, value)."""
    entity, time, late = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    valid = np.array([row[3] is not None for row in rows], np.bool_)
    values = np.array([row[3] or 0 for row in rows], np.float64) * 0.5
    codes = np.where(valid, (values * 2).astype(np.int64) + 9, -1)
    fields = {"x": FieldArrays(valid=valid, values=values, codes=codes, resolution=RESOLUTION)}
    return EventArrays(entity=entity, time=time, seq=np.array(seqs, np.int64), created=time + late, fields=fields)


def oracle(events: EventArrays, entity: int, t: int, q: int | None, measure: Measure) -> float | None:
    """The definition of a window, event by event."""
    end = t - measure.delay
    window = []
    for i in range(len(events.time)):
        tau, s = int(events.time[i]), int(events.seq[i])
        before = (tau, s) < (end, q) if q is not None else tau < end
        reach = measure.aggregate == "lag" or tau >= end - measure.span
        if events.entity[i] == entity and before and reach and events.created[i] <= t:
            window.append((tau, s, float(events.fields["x"].values[i]) if events.fields["x"].valid[i] else None))
    window.sort()
    known = [value for _, _, value in window if value is not None]
    match measure.aggregate:
        case "count":
            return float(len(window))
        case "sum":
            return sum(known)
        case "mean" | "rate":
            return sum(known) / len(known) if known else None
        case "last":
            return known[-1] if known else None
        case "distinct":
            return float(len(set(known)))
    return window[-measure.steps][2] if len(window) >= measure.steps else None


def bulk_values(events: EventArrays, targets: TargetRows, asked: list[Measure]) -> dict[str, list[float | None]]:
    found = bulk(events, targets, asked)
    given_values = [
        v if ok else None for v, ok in zip(events.fields["x"].values, events.fields["x"].valid, strict=True)
    ]
    results: dict[str, list[Any]] = {}
    for measure in asked:
        values = found[measure.column]
        if measure.aggregate in ("last", "lag"):
            results[measure.column] = [given_values[i] if i >= 0 else None for i in values]
        else:
            results[measure.column] = [None if np.isnan(value) else float(value) for value in values]
    return results


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 12),
        st.sampled_from([0, 0, 0, 1, 3, 9, 40]),
        st.one_of(st.none(), st.integers(-3, 3)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS,
    order=st.randoms(use_true_random=False),
    delay=st.integers(0, 4),
    steps=st.integers(1, 3),
    same=st.booleans(),
    wide=st.sampled_from([1, 10**15]),  # wide: entity and time don't fit into one key
)
def test_bulk_and_incremental_equal_the_definition(rows, order, delay, steps, same, wide):
    seqs = list(range(len(rows)))
    order.shuffle(seqs)
    rows = [
        (entity * (1 if wide == 1 else 5000), time * wide, late * wide, value) for entity, time, late, value in rows
    ]
    events = arrays(rows, seqs)
    asked = measures((1 * wide, 3 * wide, 20 * wide), delay * wide, steps)
    extra = [(0, 6 * wide, 10**6), (1 if wide == 1 else 5000, 20 * wide, 10**6), (77, 5 * wide, 10**6), (-1, 5, 10**6)]
    spine = [(row[0], row[1], seq) for row, seq in zip(rows, seqs, strict=True)] + extra
    entity, time, seq = (np.array([row[i] for row in spine], np.int64) for i in range(3))
    found = bulk_values(events, TargetRows(entity=entity, time=time, seq=seq if same else None), asked)
    state = Incremental(asked, same_source=same, resolutions={"x": RESOLUTION})
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    for part in (
        shuffled[: len(rows) // 3],
        shuffled[len(rows) // 3 :],
        shuffled[:4],
    ):  # these events come a second time
        state.update(taken(events, part))
    again = Incremental(asked, same_source=same, resolutions={"x": RESOLUTION})
    again.from_json(state.to_json())
    for i, (e, t, q) in enumerate(spine):
        values = state.value(e, t, q)
        assert again.value(e, t, q) == values
        for measure in asked:
            expected = oracle(events, e, t, q if same else None, measure)
            assert found[measure.column][i] == expected, (measure, spine[i])
            assert values[measure.column] == expected, (measure, spine[i])


def taken(events: EventArrays, part: list[int]) -> EventArrays:
    index = np.array(part, np.int64)
    old = events.fields["x"]
    field = FieldArrays(valid=old.valid[index], values=old.values[index], resolution=old.resolution)
    return EventArrays(
        entity=events.entity[index],
        time=events.time[index],
        seq=events.seq[index],
        created=events.created[index],
        fields={"x": field},
    )


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, before=st.integers(0, 14), delay=st.integers(0, 3), steps=st.integers(1, 3))
def test_eviction_changes_no_later_value(rows, before, delay, steps):
    events = arrays(rows, list(range(len(rows))))
    asked = measures((1, 5), delay, steps)
    whole, cut = (Incremental(asked, same_source=True, resolutions={"x": RESOLUTION}) for _ in range(2))
    whole.update(events)
    cut.update(events)
    evicted = cut.evict(before)
    assert evicted + cut.num_events == len(rows)
    for time in range(before, 40):
        for entity in range(3):
            assert cut.value(entity, time) == whole.value(entity, time)


def test_a_tie_at_the_delayed_end_goes_by_sequence_or_is_left_out_of_another_source():
    events = arrays([(0, 10, 0, 2), (0, 10, 0, 4), (0, 10, 0, 6)], [0, 1, 2])
    asked = [Measure(column="n", aggregate="count", span=5, delay=2)]
    rows = {"entity": np.zeros(4, np.int64), "time": np.full(4, 12)}
    seq = np.arange(4)
    assert bulk(events, TargetRows(seq=seq, **rows), asked)["n"].tolist() == [0, 1, 2, 3]
    assert bulk(events, TargetRows(seq=None, **rows), asked)["n"].tolist() == [0, 0, 0, 0]


def test_sums_are_exact_where_floats_are_not():
    values = [0.1, 1e9, -1e9, 0.2]
    n = len(values)
    field = FieldArrays(valid=np.ones(n, np.bool_), values=np.array(values), resolution=0.1)
    events = EventArrays(
        entity=np.zeros(n, np.int64), time=np.arange(n), seq=np.arange(n), created=np.arange(n), fields={"x": field}
    )
    rows = TargetRows(entity=np.array([0]), time=np.array([n]), seq=np.array([n]))
    found = bulk(events, rows, [Measure(column="s", aggregate="sum", field="x", span=n)])
    assert found["s"][0] == 3 * 0.1
    assert sum(values) != pytest.approx(0.3, abs=1e-9)


def test_a_sum_beyond_int64_is_a_clear_error():
    big = float(2**62)
    field = FieldArrays(valid=np.ones(3, np.bool_), values=np.array([big, big, big]), resolution=1.0)
    zeros, three = np.zeros(3, np.int64), np.arange(3)
    events = EventArrays(entity=zeros, time=three, seq=three, created=three, fields={"x": field})
    asked = [Measure(column="s", aggregate="sum", field="x", span=10)]
    state = Incremental(asked, same_source=True, resolutions={"x": 1.0})
    state.update(events)
    with pytest.raises(DataError, match="coarser `resolution`"):
        bulk(events, TargetRows(entity=zeros[:1], time=np.array([5]), seq=np.array([9])), asked)
    with pytest.raises(DataError, match="coarser `resolution`"):
        state.value(0, 5)
    assert bulk(events, TargetRows(entity=zeros[:1], time=np.array([1]), seq=np.array([1])), asked)["s"][0] == big
    assert state.value(0, 1, 1)["s"] == big
    with pytest.raises(DataError, match="int64"):
        quantise(np.array([1e19]), 1.0)


def test_a_refused_batch_changes_nothing():
    asked = [Measure(column="s", aggregate="sum", field="x", span=10)]
    state = Incremental(asked, same_source=True, resolutions={"x": 1e-300})
    with pytest.raises(DataError):
        state.update(arrays([(0, 1, 0, 2), (1, 1, 0, 3)], [0, 1]))
    assert state.entities() == []


def fraud_events(path: Any, count: int) -> pa.Table:
    raw = pq.read_table(path / "fraud").slice(150_000, count)
    time = raw["TX_DATETIME"].cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    generator = np.random.default_rng(5)
    late = np.where(generator.random(count) < 0.01, generator.integers(0, 3 * 86_400_000_000, count), 0)
    created = pa.array(time.cast(pa.int64()).to_numpy() + late).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "customer": raw["CUSTOMER_ID"].cast(pa.int64()),
            "terminal": raw["TERMINAL_ID"].cast(pa.int64()),
            "amount": raw["TX_AMOUNT"],
            "fraud": raw["TX_FRAUD"].cast(pa.int64()),
            "event_time": time,
            "created_time": created,
            "ingest_seq": pa.array(np.arange(count)),
        }
    )


def test_incremental_equals_bulk_on_real_payments_to_the_last_bit(shared_data, fraud):
    """100,000 payments, some of them created days late, in random batches and order, at every payment's time."""
    table = fraud_events(shared_data, 100_000)
    keys = {name: table[name].to_pylist() for name in ("customer", "terminal")}
    times = table["event_time"].cast(pa.int64()).to_pylist()
    generator = np.random.default_rng(1)
    for group in window_groups(fraud):
        expected = {name: column.to_pylist() for name, column in window_columns(group, table, table).items()}
        state = Incremental(group.measures, same_source=group.same_source, resolutions=group.resolutions)
        order = generator.permutation(table.num_rows)
        for part in np.split(order, np.sort(generator.integers(0, table.num_rows, 30))):
            state.update(incremental_events(group, table.take(pa.array(part))))
        values = [state.value(key, t, q) for q, (key, t) in enumerate(zip(keys[group.entity], times, strict=True))]
        for name, column in expected.items():
            assert column == [value[name] for value in values], name
