"""Each injected fault has its effect, at its place and time, and no other effect."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from evermodel.errors import InputError
from evermodel.simulation.simulator import Simulator
from tests.unit.simulation.marketplaces import RESTAURANTS, column, days, fault, ordered, simulator

PLAIN = simulator()


def with_fault(kind: str, **settings: Any) -> Simulator:
    """The marketplace with one fault, on day 1."""
    return simulator(faults=[fault(kind, 1, 1, **settings)])


FAULTS: list[dict[str, Any]] = [
    {"kind": "covariate_shift", "column": "zone", "weights": {"harbour": 6}},
    {"kind": "covariate_shift", "column": "cuisine", "weights": {"sushi": 0}},
    {"kind": "covariate_shift", "column": "device", "weights": {"web": 5}},
    {"kind": "covariate_shift", "column": "distance_km", "factor": 2},
    {"kind": "label_shift", "factor": 0.5},
    {"kind": "concept_shift", "scale": {"segment_taste": -1}},
    {"kind": "null_burst", "column": "rating"},
    {"kind": "unit", "column": "distance_km", "factor": 1000},
    {"kind": "constant", "column": "price_level", "value": 2},
    {"kind": "duplicate", "share": 0.2},
    {"kind": "late_labels", "delay": "6h"},
]


@pytest.mark.parametrize("settings", FAULTS, ids=lambda settings: "_".join(map(str, list(settings.values())[:2])))
def test_outside_its_time_a_fault_has_no_effect(settings: dict[str, Any]) -> None:
    settings = dict(settings)
    simulated = with_fault(settings.pop("kind"), **settings)
    for day in (0, 2):
        impressions = PLAIN.history(days(day))["impressions"]
        assert simulated.history(days(day))["impressions"].equals(impressions)
        assert simulated.outcomes(impressions).equals(PLAIN.outcomes(impressions)) or settings.get("delay")
        assert np.array_equal(simulated.expected(impressions), PLAIN.expected(impressions))
    during = simulated.history(days(1))
    assert any(not during[source].equals(table) for source, table in PLAIN.history(days(1)).items())


def test_without_an_end_a_fault_stays_active() -> None:
    simulated = simulator(faults=[fault("constant", 1, column="device", value="web")])
    for day, kinds in ((0, 3), (1, 1), (30, 1)):
        assert len(simulated.requests(days(day))["device"].unique()) == kinds


def test_a_covariate_shift_of_users_or_items_changes_requests_and_not_behaviour() -> None:
    for name, weights in (("zone", {"harbour": 6.0}), ("cuisine", {"sushi": 0.0, "thai": 3.0})):
        simulated = with_fault("covariate_shift", column=name, weights=weights)
        before, after = (_shares(each.requests(days(1)), name) for each in (PLAIN, simulated))
        odds = {value: share * weights.get(value, 1) for value, share in before.items()}
        scale = sum(odds.values()) if name == "zone" else 1.0
        if name == "zone":
            assert after == pytest.approx({value: odd / scale for value, odd in odds.items()}, abs=0.08)
        else:
            assert "sushi" not in after and after["thai"] > 1.8 * before["thai"]
        for table in (PLAIN.requests(days(1)), simulated.requests(days(1))):
            assert np.array_equal(simulated.expected(table), PLAIN.expected(table))
        times = [column(each.requests(days(1)), "event_time") for each in (PLAIN, simulated)]
        assert np.array_equal(*times)


def test_a_covariate_shift_of_a_context_changes_that_column_alone() -> None:
    simulated = with_fault("covariate_shift", column="device", weights={"web": 12.0})
    before, after = PLAIN.requests(days(1)), simulated.requests(days(1))
    assert _changed(before, after) == {"device"}
    odds = {device: share * (12 if device == "web" else 1) for device, share in _shares(before, "device").items()}
    expected = {device: odd / sum(odds.values()) for device, odd in odds.items()}
    assert _shares(after, "device") == pytest.approx(expected, abs=0.07)
    same = pc.equal(before["device"], after["device"]).to_numpy()
    assert np.array_equal(simulated.expected(after)[same], PLAIN.expected(after)[same])


def test_a_covariate_shift_of_a_number_shifts_it_and_numbers_that_use_it() -> None:
    simulated = with_fault("covariate_shift", column="distance_km", factor=2.0, add=1.0)
    before, after = PLAIN.requests(days(1)), simulated.requests(days(1))
    assert _changed(before, after) == {"distance_km", "delivery_minutes"}
    inside = column(before, "distance_km") > 0.1  # its lower bound
    shifted = column(after, "distance_km")[inside]
    assert shifted == pytest.approx(2 * column(before, "distance_km")[inside] + 1, abs=0.02)
    assert (simulated.expected(after) < PLAIN.expected(after)).all()  # users further away order less


def test_a_label_shift_multiplies_the_base_rate() -> None:
    simulated = with_fault("label_shift", factor=0.5)
    impressions = PLAIN.history(days(1))["impressions"]
    assert simulated.requests(days(1)).equals(PLAIN.requests(days(1)))
    assert simulated.expected(impressions) == pytest.approx(0.5 * PLAIN.expected(impressions))
    fewer, all_of_them = simulated.outcomes(impressions), PLAIN.outcomes(impressions)
    assert fewer.num_rows == pytest.approx(0.5 * all_of_them.num_rows, rel=0.25)
    assert set(map(str, fewer.to_pylist())) < set(map(str, all_of_them.to_pylist()))
    assert with_fault("label_shift", factor=50).expected(impressions).max() == 1.0


def test_a_concept_shift_changes_what_is_ordered_at_equal_inputs() -> None:
    simulated = with_fault("concept_shift", scale={"segment_taste": -1})
    assert simulated.requests(days(1)).equals(PLAIN.requests(days(1)))
    requests = PLAIN.requests(days(1))
    students = requests.filter((pc.field("segment") == "student") & (pc.field("cuisine") == "burger"))
    workers = requests.filter((pc.field("segment") == "worker") & (pc.field("cuisine") == "burger"))  # weight 0
    assert (simulated.expected(students) < PLAIN.expected(students)).all()
    assert simulated.expected(workers) == pytest.approx(PLAIN.expected(workers))
    sushi = {"kind": "effect", "of": "cuisine", "weights": {"sushi": -2}}
    scare = with_fault("concept_shift", add={"sushi_scare": sushi})
    fish = column(requests, "cuisine") == "sushi"
    assert (scare.expected(requests)[fish] < PLAIN.expected(requests)[fish]).all()
    assert np.array_equal(scare.expected(requests)[~fish], PLAIN.expected(requests)[~fish])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"kind": "null_burst", "column": "distance_km", "share": 0.4}, "distance_km"),
        ({"kind": "unit", "column": "distance_km", "factor": 1000}, "distance_km"),
        ({"kind": "unit", "column": "price_level", "factor": 10}, "price_level"),
        ({"kind": "constant", "column": "cuisine", "value": "pizza"}, "cuisine"),
    ],
)
def test_a_broken_column_changes_the_record_and_not_the_outcomes(settings: dict[str, Any], name: str) -> None:
    settings = dict(settings)
    simulated = with_fault(settings.pop("kind"), **settings)
    before, after = PLAIN.requests(days(1)), simulated.requests(days(1))
    assert _changed(before, after) == {name} and after.schema == before.schema
    if "share" in settings:
        assert after[name].null_count / after.num_rows == pytest.approx(0.4, abs=0.05)
        assert after[name].drop_null().equals(before[name].filter(after[name].is_valid()))
    elif "factor" in settings:
        assert column(after, name) == pytest.approx(settings["factor"] * column(before, name))
    else:
        assert after[name].unique().to_pylist() == [settings["value"]]
    assert np.array_equal(simulated.expected(after), PLAIN.expected(before))
    assert simulated.outcomes(simulated.shown(after, None)).equals(PLAIN.outcomes(PLAIN.shown(before, None)))


def test_duplicates_are_whole_copies_without_a_second_order() -> None:
    simulated = with_fault("duplicate", share=0.2)
    once, twice = (each.shown(each.requests(days(1)), None) for each in (PLAIN, simulated))
    assert twice.num_rows == pytest.approx(1.2 * once.num_rows, rel=0.04)
    rows = twice.to_pylist()
    copies = [row for row, before in zip(rows[1:], rows, strict=False) if row == before]
    assert len(copies) == twice.num_rows - once.num_rows
    firsts = [row for row, before in zip(rows, [None, *rows], strict=False) if row != before]
    assert firsts == once.to_pylist()
    assert simulated.outcomes(twice).equals(PLAIN.outcomes(once))
    doubled = simulator(faults=[fault("duplicate", 1, 2, share=1, source="orders")]).outcomes(once)
    assert doubled.num_rows == 2 * doubled.group_by(["request_id", "restaurant_id"]).aggregate([]).num_rows > 0


def test_late_labels_are_created_later_at_the_same_event_times() -> None:
    impressions = PLAIN.shown(PLAIN.requests(days(1)), None)
    in_time = PLAIN.outcomes(impressions)
    late = simulator(faults=[fault("late_labels", 1, 2, delay="6h", share=0.5)]).outcomes(impressions)
    assert _changed(in_time, late) == {"created_time"}
    shifted = column(late, "created_time") - column(in_time, "created_time")
    assert set(shifted.astype("int64")) == {0, 6 * 3_600_000_000}
    assert (shifted.astype("int64") > 0).mean() == pytest.approx(0.5, abs=0.12)


def test_a_column_of_the_outcomes_breaks_too() -> None:
    impressions = PLAIN.shown(PLAIN.requests(days(1)), None)
    cents = simulator(faults=[fault("unit", 1, 2, column="amount", factor=100, source="orders")])
    assert cents.requests(days(1)).equals(PLAIN.requests(days(1)))
    before, after = PLAIN.outcomes(impressions), cents.outcomes(impressions)
    assert _changed(before, after) == {"amount"}
    assert column(after, "amount") == pytest.approx(100 * column(before, "amount"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "unit", "column": "distance", "factor": 2}, r"faults\[0\]\.column = 'distance' .*'distance_km'"),
        ({"kind": "null_burst", "column": "user_id"}, "'user_id' is not there"),
        ({"kind": "null_burst", "column": "quality"}, "'quality' is not there"),
        (
            {"kind": "unit", "colum": "rating", "factor": 2},
            r"simulator\.faults\[0\]: unknown key 'colum'; did you mean 'column'",
        ),
        ({"kind": "constant", "column": "amount", "value": 1}, "'amount' is not there"),
        ({"kind": "constant", "column": "amount", "value": 1, "source": "order"}, "did you mean 'orders'"),
        ({"kind": "concept_shift", "scale": {"tastes": -1}}, r"faults\[0\]\.scale = 'tastes'"),
        ({"kind": "covariate_shift", "column": "zone", "weights": {"harbor": 2}}, "did you mean 'harbour'"),
        ({"kind": "covariate_shift", "column": "daypart", "weights": {"lunch": 2}}, "weights shift a category"),
        ({"kind": "covariate_shift", "column": "amount", "factor": 2}, "'amount' is not there"),
        ({"kind": "label_shift", "factor": -1}, r"faults\[0\]\.factor = -1: .*greater than 0"),
        ({"kind": "drift", "factor": 1}, r"faults\[0\]"),
    ],
)
def test_a_wrong_fault_is_an_error_with_its_place(settings: dict[str, Any], message: str) -> None:
    settings = dict(settings)
    with pytest.raises(InputError, match=message):
        with_fault(settings.pop("kind"), **settings)


def test_a_fault_ends_after_it_starts() -> None:
    with pytest.raises(InputError, match="is not after start"):
        simulator(faults=[{"kind": "duplicate", "share": 0.1, "start": days(2).start, "end": days(1).start}])


def test_the_shipped_faults_hurt_the_first_model_and_a_refit_recovers() -> None:
    """The first champion's NDCG holds on the quiet day, drops by more than .05 with the shift, and a refit recovers it."""
    shipped = Simulator(RESTAURANTS)
    history = shipped.history(shipped.settings.history)["impressions"]
    assert history.num_rows <= 30_000
    # live days are 14, 15, …: the tastes are reversed from the start of day 15
    quiet, drifted, later = (shipped.shown(shipped.requests(days(day)), None) for day in (14, 15, 16))
    champion, refit = _fit(shipped, history), _fit(shipped, drifted)
    best = _ndcg(shipped, shipped.expected(quiet), quiet)
    on_quiet = _ndcg(shipped, _score(champion, quiet), quiet)
    assert best - 0.05 < on_quiet
    assert _ndcg(shipped, _score(champion, drifted), drifted) < on_quiet - 0.15
    assert _ndcg(shipped, _score(refit, later), later) > _ndcg(shipped, _score(champion, later), later) + 0.15


def _shares(table: pa.Table, name: str) -> dict[str, float]:
    counts = table[name].value_counts().to_pylist()
    return {each["values"]: each["counts"] / table.num_rows for each in counts}


def _changed(before: pa.Table, after: pa.Table) -> set[str]:
    assert before.column_names == after.column_names and before.num_rows == after.num_rows
    return {name for name in before.column_names if not before[name].equals(after[name])}


NUMBERS, TEXTS = ["price_level", "distance_km"], ["segment_cuisine", "daypart", "device"]


def _inputs(table: pa.Table) -> Any:
    frame = table.to_pandas()
    frame["segment_cuisine"] = frame["segment"] + frame["cuisine"]
    return frame[NUMBERS + TEXTS]


def _fit(simulated: Simulator, impressions: pa.Table) -> Pipeline:
    """A plain logistic regression on a few columns, because learning must not need a clever model."""
    columns = make_column_transformer((StandardScaler(), NUMBERS), (OneHotEncoder(handle_unknown="ignore"), TEXTS))
    taken = ordered(impressions, simulated.outcomes(impressions))
    return make_pipeline(columns, LogisticRegression(max_iter=300)).fit(_inputs(impressions), taken)


def _score(model: Pipeline, impressions: pa.Table) -> np.ndarray:
    return np.asarray(model.predict_proba(_inputs(impressions))[:, 1])


def _ndcg(simulated: Simulator, scores: np.ndarray, impressions: pa.Table) -> float:
    """Mean over the requests with an order; gain 1, discount 1 / log2(rank + 1)."""
    requests, taken = column(impressions, "request_id"), ordered(impressions, simulated.outcomes(impressions))
    found = []
    for request in np.unique(requests):
        inside = requests == request
        if taken[inside].any():
            ranked = taken[inside][np.argsort(-scores[inside], kind="stable")]
            discount = 1 / np.log2(np.arange(len(ranked)) + 2)
            found.append((ranked * discount).sum() / discount[: ranked.sum()].sum())
    return float(np.mean(found))
