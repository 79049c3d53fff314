"""The simulated marketplace: reproducible rows, and outcomes with the stated probabilities."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evermodel import use_case
from evermodel.clock import micros
from evermodel.data.readers import read_source
from evermodel.data.validation import validate
from evermodel.errors import DataError, InputError
from evermodel.records import Window
from evermodel.simulation.simulator import Simulator, read
from tests.unit.simulation.marketplaces import MONDAY, RESTAURANTS, case, column, days, ordered, simulator

BUSY = {"traffic.per_day": 1500}


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    first, second = simulator(), simulator()
    assert first.requests(days(0)).equals(second.requests(days(0)))
    assert first.history(days(0)) == second.history(days(0))
    other = first.requests(days(0), seed=8)
    assert set(other["request_id"].to_pylist()).isdisjoint(first.requests(days(0))["request_id"].to_pylist())
    assert other.equals(simulator().requests(days(0), seed=8))
    assert not simulator({"seed": 8}).requests(days(0)).equals(first.requests(days(0)))


def test_adjacent_windows_hold_the_rows_of_their_union() -> None:
    noon = MONDAY.replace(hour=12)
    parts = [Window(start=MONDAY, end=noon), Window(start=noon, end=days(0).end), days(1)]
    whole, divided = simulator().history(days(0, 1)), [simulator().history(part) for part in parts]
    for source, table in whole.items():
        assert pa.concat_tables([part[source] for part in divided]).equals(table.combine_chunks()), source
        times = column(table, "event_time")
        assert (times[1:] >= times[:-1]).all()
        assert micros(MONDAY) <= times[0].astype("int64") and times[-1].astype("int64") < micros(days(1).end)


def test_rows_meet_the_schema_and_orders_are_within_the_labels_delay() -> None:
    history = simulator().history(days(0, 2))
    for name, raw in history.items():
        source = RESTAURANTS.source(name)
        valid, rejects = validate(RESTAURANTS, source, raw)
        assert (valid.num_rows, rejects.num_rows) == (raw.num_rows, 0)
        assert set(raw.column_names) == {field.name for field in source.fields} | {"event_time", "created_time"}
    impressions = history["impressions"]
    shown = dict(zip(impressions["request_id"].to_pylist(), column(impressions, "event_time"), strict=True))
    orders = simulator().outcomes(impressions)
    asked = [shown[request] for request in orders["request_id"].to_pylist()]
    delay = np.timedelta64(RESTAURANTS.label("ordered").delay, "us")
    assert (column(orders, "event_time") > asked).all() and (column(orders, "created_time") <= asked + delay).all()
    assert (column(orders, "created_time") > column(orders, "event_time")).all()


def test_a_missing_rating_is_missing_in_all_rows_of_its_item() -> None:
    impressions = simulator().history(days(0, 2))["impressions"]
    rated = {}
    for item, rating in zip(impressions["restaurant_id"].to_pylist(), impressions["rating"].to_pylist(), strict=True):
        assert rated.setdefault(item, rating) == rating
    assert 0 < sum(value is None for value in rated.values()) < 12
    assert 0.005 < impressions["delivery_minutes"].null_count / impressions.num_rows < 0.04


def test_the_reader_gives_the_history_of_the_window() -> None:
    history = simulator(faults=RESTAURANTS.simulator["faults"]).history(days(0))
    for name, table in history.items():
        assert read(RESTAURANTS, name, days(0)).equals(table)
        assert read_source(RESTAURANTS, RESTAURANTS.source(name), "nowhere", window=days(0)).equals(table)
    with pytest.raises(DataError, match="writes impressions and orders, not 'clicks'"):
        read(RESTAURANTS, "clicks", days(0))


def test_requests_follow_the_profile_of_the_day_and_the_week() -> None:
    quiet_sundays = {"traffic.per_day": 2000, "traffic.weekdays": [1, 1, 1, 1, 1, 1, 0.25]}
    requests = simulator(quiet_sundays).requests(days(0, 6))
    first = pc.unique(
        pc.struct_field(pa.array(requests.select(["event_time", "request_id"]).to_struct_array()), "event_time")
    )
    hours = np.bincount(pc.hour(first).to_numpy(), minlength=24)
    assert hours[19] > 3 * hours[15] > 20 * hours[3]
    weekdays = np.bincount(pc.day_of_week(first).to_numpy(), minlength=7)
    assert weekdays[6] == pytest.approx(500, abs=120) and weekdays[:6] == pytest.approx(2000, abs=230)


def test_in_random_order_the_order_rate_falls_with_the_position_as_examination_does() -> None:
    steep = [1, 0.5, 0.25]
    simulated = simulator({"traffic.per_day": 4000, "positions.examination": steep})
    impressions = simulated.shown(simulated.requests(days(0)), None)
    taken, position = ordered(impressions, simulated.outcomes(impressions)), column(impressions, "position")
    rate = np.array([taken[position == place].mean() for place in range(1, 9)])
    assert rate[:3] / rate[0] == pytest.approx(steep, rel=0.2)
    assert rate[2:] == pytest.approx(rate[2], rel=0.4)  # the last share holds for all further positions
    flat = simulator({"positions.examination": [1]})
    assert flat.expected(impressions) == pytest.approx(flat.expected(impressions.drop_columns("position")))


def test_the_best_scores_are_shown_first() -> None:
    simulated = simulator({"traffic.candidates": 12})
    candidates = simulated.requests(days(0))
    scores = np.random.default_rng(0).normal(size=candidates.num_rows)
    scores[::7] = np.nan
    shown = simulated.shown(candidates.append_column("score", pa.array(scores)), scores)
    requests, of = column(candidates, "request_id"), column(shown, "request_id")
    for request in np.unique(requests)[:40]:
        best = np.sort(np.nan_to_num(scores[requests == request], nan=-np.inf))[::-1][:8]
        assert np.array_equal(np.nan_to_num(column(shown, "score")[of == request], nan=-np.inf), best)
        assert list(column(shown, "position")[of == request]) == list(range(1, 9))
    with pytest.raises(DataError, match=r"3 scores for \d+ candidates"):
        simulated.shown(candidates, np.zeros(3))


def test_ties_and_the_logging_policy_favour_no_item() -> None:
    simulated = simulator(BUSY)
    candidates = simulated.requests(days(0))
    for scores in (np.zeros(candidates.num_rows), None):
        first = simulated.shown(candidates, scores).filter(pc.field("position") == 1)
        assert pc.mean(first["distance_km"]).as_py() == pytest.approx(
            pc.mean(candidates["distance_km"]).as_py(), rel=0.05
        )
    near = {"kind": "linear", "of": "distance_km", "weight": -5}
    policy = simulator({**BUSY, "logging.terms": {"near": near}})
    first = policy.shown(candidates, None).filter(pc.field("position") == 1)
    assert pc.mean(first["distance_km"]).as_py() < 0.5 * pc.mean(candidates["distance_km"]).as_py()


def test_the_true_probabilities_are_calibrated_and_rank_far_better_than_the_position() -> None:
    simulated = simulator(BUSY)
    impressions = simulated.shown(simulated.requests(days(0, 1)), None)
    chance, taken = simulated.expected(impressions), ordered(impressions, simulated.outcomes(impressions))
    assert ((chance > 0) & (chance < 1)).all()
    for part in np.array_split(np.argsort(chance), 10):
        error = 4 * np.sqrt((chance[part] * (1 - chance[part])).sum())
        assert abs(taken[part].sum() - chance[part].sum()) < error
    position = column(impressions, "position")
    assert _auc(chance, taken) > 0.8 > 0.6 > _auc(-position, taken) > 0.5


def test_two_rankings_are_compared_on_common_random_numbers() -> None:
    simulated = simulator(BUSY)
    candidates = simulated.requests(days(0))
    best = simulated.expected(candidates)
    orders = {}
    for name, scores in (("best", best), ("worst", -best), ("random", None)):
        shown = simulated.shown(candidates, scores)
        pairs = list(zip(shown["request_id"].to_pylist(), shown["restaurant_id"].to_pylist(), strict=True))
        taken, position = ordered(shown, simulated.outcomes(shown)), column(shown, "position")
        orders[name] = {pair: (place, was) for pair, place, was in zip(pairs, position, taken, strict=True)}
    assert all(orders["best"].keys() == other.keys() for other in orders.values())
    for pair, (place, was) in orders["best"].items():
        for other_place, other_was in (orders["worst"][pair], orders["random"][pair]):
            assert was == other_was or (place < other_place) == was  # only a better place can add an order
    count = {name: sum(was for _, was in rows.values()) for name, rows in orders.items()}
    assert count["best"] > 1.1 * count["random"] > 1.2 * count["worst"]


def test_outcomes_depend_on_no_other_row() -> None:
    simulated = simulator()
    impressions = simulated.shown(simulated.requests(days(0)), None)
    whole = simulated.outcomes(impressions)
    even = impressions.take(pa.array(np.random.default_rng(1).permutation(impressions.num_rows)[::2]))
    part = simulated.outcomes(even)
    keys = pc.binary_join_element_wise(whole["request_id"], whole["restaurant_id"], "/")
    wanted = pc.binary_join_element_wise(even["request_id"], even["restaurant_id"], "/")
    assert whole.filter(pc.is_in(keys, wanted)).equals(part)
    assert simulated.outcomes(impressions.slice(0, 0)).schema == whole.schema


LIBRARY: dict[str, Any] = {
    "seed": 1,
    "history": {"start": MONDAY, "end": days(1).end},
    "live_windows": 1,
    "users": {
        "key": "reader",
        "count": 20,
        "id": "r{}",
        "attributes": {"adult": {"kind": "category", "values": {"true": 1, "false": 3}}},
    },
    "items": {
        "key": "book",
        "count": 9,
        "id": "b{}",
        "attributes": {"pages": {"kind": "number", "link": "exp", "location": 5, "scale": 1, "noise": "uniform"}},
    },
    "traffic": {"per_day": 300, "candidates": 5, "shown": 3},
    "behaviour": {
        "intercept": 0,
        "terms": {"long": {"kind": "slope", "of": "pages", "by": "adult", "weights": {"false": -1}}},
    },
    "outcomes": {
        "source": "loans",
        "after": {"kind": "number", "location": 5, "min": 1, "max": 10},
        "reported": {"kind": "number"},
    },
}


def library() -> use_case.UseCase:
    """Another marketplace: readers and books."""
    text = {"type": "string"}
    return use_case.UseCase.model_validate(
        {
            "name": "library",
            "framing": "ranking",
            "entities": [{"name": "book", "key": "book"}],
            "sources": [
                {
                    "name": "shelf",
                    "reader": "simulator",
                    "event_time": {"field": "at"},
                    "fields": [
                        {"name": "visit", **text},
                        {"name": "reader", **text},
                        {"name": "book", "column": "isbn", **text},
                        {"name": "adult", "type": "bool"},
                        {"name": "pages", "type": "int"},
                    ],
                },
                {
                    "name": "loans",
                    "reader": "simulator",
                    "event_time": {"field": "at"},
                    "fields": [{"name": "visit", **text}, {"name": "book", **text}],
                },
            ],
            "predict": {"source": "shelf", "group": "visit", "item": "book"},
            "labels": [{"name": "lent", "kind": "event", "source": "loans", "match": ["visit", "book"], "delay": "1h"}],
            "features": [{"name": "pages", "kind": "column"}],
            "objectives": [{"name": "lent", "label": "lent"}],
            "evaluation": {"metric": "ndcg"},
            "monitoring": {"window": "1d"},
            "simulator": LIBRARY,
        }
    )


def test_another_marketplace_is_another_file() -> None:
    simulated = Simulator(library())
    history = simulated.history(days(0))
    shelf = history["shelf"]
    assert shelf.column_names == ["visit", "reader", "isbn", "adult", "pages", "at"]
    assert shelf.schema.field("adult").type == pa.bool_() and shelf.schema.field("pages").type == pa.int64()
    assert pc.min(shelf["pages"]).as_py() >= 55 and pc.max(shelf["pages"]).as_py() <= 403  # exp(5 ± 1)
    adult = column(shelf, "adult").astype(bool)
    assert simulated.expected(shelf)[adult] == pytest.approx(0.5)
    assert simulated.expected(shelf)[~adult].max() < 1e-20
    assert history["loans"].num_rows == pytest.approx(adult.sum() / 2, rel=0.2)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trafic", {}, r"simulator: unknown key 'trafic'; did you mean 'traffic'\?"),
        (
            "behaviour.terms.price.weigths",
            {},
            r"simulator\.behaviour\.terms\.price: unknown key 'weigths'; did you mean 'weights'",
        ),
        ("users.attributes.segment.kind", "categories", r"simulator\.users\.attributes\.segment"),
        ("traffic.shown", 9, "shown ≤ candidates ≤ items.count"),
        ("items.key", "user_id", "is not predict.item"),
        ("outcomes.source", "order", "did you mean 'orders'"),
        ("outcomes.after.max", None, "outcomes.after needs a min"),
        ("behaviour.terms.distance.of", "distance", r"behaviour\.terms\.distance\.of = 'distance' .* 'distance_km'"),
        ("behaviour.terms.distance.of", "cuisine", "is not there"),
        ("behaviour.terms.web_looks_around.weights", {"wep": 1}, "did you mean 'web'"),
        ("behaviour.terms.segment_taste.weights", {"students": {}}, "did you mean 'student'"),
        ("items.attributes.rating.terms.quality.of", "user_x", "is not there"),
        ("items.attributes.zone", {"kind": "category", "values": {"x": 1}}, "zone is drawn twice"),
        ("users.attributes.zone.values", {"centre": 0}, "add up to 0"),
        ("users.attributes.hour", {"kind": "calendar", "part": "hour"}, "only contexts have a time"),
        ("users.id", "u", "gives the same key twice"),
    ],
)
def test_a_wrong_section_is_an_error_with_its_place(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulator({path: value})


def test_a_field_that_nothing_draws_is_an_error() -> None:
    wrong = case()
    assert wrong.simulator is not None
    del wrong.simulator["contexts"]["weather"]
    del wrong.simulator["pairs"]["delivery_minutes"]["terms"]["weather"]
    del wrong.simulator["behaviour"]["terms"]["bad_weather"]
    with pytest.raises(InputError, match=r"nothing draws impressions\.weather"):
        Simulator(wrong)
    with pytest.raises(InputError, match="no simulator section"):
        Simulator(RESTAURANTS.model_copy(update={"simulator": None}))


def test_rows_of_another_marketplace_are_an_error() -> None:
    simulated = simulator()
    rows = simulated.requests(days(0))
    stranger = rows.set_column(rows.column_names.index("user_id"), "user_id", pa.array(["nobody"] * rows.num_rows))
    with pytest.raises(DataError, match="user_id 'nobody' is not in the simulated marketplace"):
        simulated.expected(stranger)
    with pytest.raises(DataError, match="restaurant_id is absent"):
        simulated.expected(rows.drop_columns("restaurant_id"))


def _auc(score: np.ndarray, taken: np.ndarray) -> float:
    """Mann–Whitney, ties by half."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    ones = taken.sum()
    return float((rank[taken].sum() - ones * (ones + 1) / 2) / (ones * (len(taken) - ones)))
