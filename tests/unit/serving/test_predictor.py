import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import FeatureStoreError, ServingError
from evermodel.serving.answers import log_rows
from evermodel.serving.predictor import Arm, GivenFeatures, Predictor
from evermodel.serving.request_log import served_schema
from tests.unit.serving.serving_cases import NOW, Guide, Lines, guide, lines, release, shop, view

KNOWN: dict[str, dict[Any, dict[str, Any]]] = {
    "item": {"i1": {"views_1d": 3.0, "event_time": NOW}, "i2": {"views_1d": 1.0, "event_time": NOW}},
    "user": {"u1": {"mean_price_7d": 20.0, "event_time": NOW}},
}


def predictor(**options: Any) -> Predictor:
    return Predictor(shop(), lines(shop()), GivenFeatures(shop(), KNOWN), **options)


def test_a_score_is_the_weighted_sum_of_the_objectives() -> None:
    answer = predictor().predict([view(position=7)], now=NOW)[0]
    assert answer.scores == {"buy": 10 + 100 * 3, "earn": 1 + 12 + 20}  # position is served as 1, the hour is `now`'s
    assert answer.score == 310 + 0.5 * 33
    assert (answer.arm, answer.propensity, answer.fallback, answer.release) == (
        "champion",
        1.0,
        False,
        release(shop()).id,
    )


def test_weights_change_the_sum_and_nothing_else() -> None:
    answer = predictor(weights={"buy": 0.0, "earn": 2.0}).predict([view()], now=NOW)[0]
    assert (answer.score, answer.scores["buy"]) == (66.0, 310.0)
    with pytest.raises(ServingError, match="did you mean 'earn'"):
        predictor(weights={"earm": 1.0})


def test_features_are_logged_as_they_were_used() -> None:
    answer = predictor().predict([view(position=7)], now=NOW)[0]
    row = log_rows(shop(), [answer]).to_pylist()[0]
    expected = {"position": 1, "hour": 12.0, "views_1d": 3.0, "mean_price_7d": 20.0, "device_country": "web|nl"}
    assert {name: row[name] for name in expected} == expected
    assert (row["score:buy"], row["row_id"], row["event_time"], row["fallback"]) == (310.0, None, NOW, False)
    assert log_rows(shop(), [answer]).schema == served_schema(shop())


def test_an_entity_without_events_counts_none_and_a_stale_one_is_unknown() -> None:
    stale = {"item": {"i1": {"views_1d": 3.0, "event_time": NOW - timedelta(days=8)}}, "user": {}}
    found = Predictor(shop(), lines(shop()), GivenFeatures(shop(), stale)).predict(
        [view(), view(item_id="new")], now=NOW
    )
    assert [answer.row["views_1d"] for answer in found] == [None, 0.0]
    assert [answer.row["mean_price_7d"] for answer in found] == [None, None]  # a mean of nothing is unknown


def test_ranking_is_best_first_and_ties_keep_their_order() -> None:
    candidates = [{"item_id": name} for name in ("i9", "i2", "i1", "i8")]
    context = {key: value for key, value in view().items() if key != "item_id"}
    found = predictor().rank(context, candidates, now=NOW)
    assert [(answer.question.values["item_id"], answer.rank) for answer in found] == [
        ("i1", 1),
        ("i2", 2),
        ("i9", 3),
        ("i8", 4),
    ]
    assert [answer.rank for answer in predictor().rank(context, candidates, now=NOW, k=2)] == [1, 2]
    assert len({answer.question.values["request"] for answer in found}) == 1


def test_classes_are_ranked_among_those_asked_for() -> None:
    live = Predictor(guide(), Guide(release(guide())), GivenFeatures(guide(), {}))
    row = {"user": "u", "seen": 2}  # a: 2, b: 4, c: 1, d: 3
    best = live.rank(row, None, now=NOW)[0]
    assert (best.classes, best.class_scores, best.score) == (("b", "d", "a", "c"), (0.4, 0.3, 0.2, 0.1), None)
    assert live.rank(row, ["a", "c", "nowhere"], now=NOW)[0].classes == ("a", "c")
    assert live.rank(row, None, now=NOW, k=1)[0].classes == ("b",)


def test_a_wrong_row_is_named_by_its_place() -> None:
    with pytest.raises(ServingError) as caught:
        predictor().predict([view(), view(price=-1)], now=NOW)
    assert (caught.value.code, caught.value.field) == ("out_of_range", "rows[1].price")


# when something is down -----------------------------------------------------------------------------------------------


class Slow(GivenFeatures):
    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        time.sleep(0.4)
        return super().read(entity, keys, timeout_s=timeout_s)


class Down(GivenFeatures):
    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        raise FeatureStoreError("gone")


class Broken(GivenFeatures):
    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        raise OSError("an exception of the store's own")


class SlowModel(Lines):
    def scores(self, rows: pa.Table) -> dict[str, np.ndarray]:
        time.sleep(0.8)
        return super().scores(rows)


class DeadModel(Lines):
    def scores(self, rows: pa.Table) -> dict[str, np.ndarray]:
        raise RuntimeError("a model's own exception")


class NanModel(Lines):
    def scores(self, rows: pa.Table) -> dict[str, np.ndarray]:
        return {name: values * np.nan for name, values in super().scores(rows).items()}


@pytest.mark.parametrize(
    ("store", "reason"),
    [(Slow, "feature_store_timeout"), (Down, "feature_store_error"), (Broken, "feature_store_error")],
)
def test_without_the_store_the_answer_is_flagged_and_in_time(store: type[GivenFeatures], reason: str) -> None:
    live = Predictor(shop(), lines(shop()), store(shop(), KNOWN))
    start = time.monotonic()
    answers = live.predict([view(stars=4.0), view(item_id="i2")], now=NOW)
    assert time.monotonic() - start < 0.5
    assert [(answer.score, answer.reason, answer.source) for answer in answers] == [
        (4.0, reason, "heuristic"),
        (0.25, reason, "constant"),
    ]
    assert all(answer.fallback and answer.release is None for answer in answers)


@pytest.mark.parametrize(
    ("model", "reason"), [(SlowModel, "model_timeout"), (DeadModel, "model_error"), (NanModel, "model_not_finite")]
)
def test_without_the_model_the_last_known_score_answers(model: type[Lines], reason: str) -> None:
    well = predictor()
    known = well.predict([view()], now=NOW)[0].score
    ill = model(release(shop()), {"buy": {"price": 1}, "earn": {"price": 1}})
    live = Predictor(shop(), ill, GivenFeatures(shop(), KNOWN), fallback=well.fallback)
    answer = live.predict([view(price=99.0)], now=NOW)[0]
    assert (answer.score, answer.reason, answer.source) == (known, reason, "last_known")
    assert answer.row["views_1d"] == 3.0  # the features were there, and are logged


def test_a_category_falls_back_to_classes() -> None:
    live = Predictor(guide(), Guide(release(guide())), GivenFeatures(guide(), {}))
    row = {"user": "u", "seen": 2}
    live.rank(row, None, now=NOW)
    dead = DeadModel(release(guide()), {"next": {}})
    fallen = Predictor(guide(), dead, GivenFeatures(guide(), {}), fallback=live.fallback)
    assert fallen.rank(row, ["x", "a", "d"], now=NOW)[0].classes == ("d", "a", "x")
    assert fallen.rank({"user": "new", "seen": 2}, ["x", "a"], now=NOW)[0].classes == ("x", "a")


# arms -----------------------------------------------------------------------------------------------------------------


def test_arms_share_the_units_and_a_shadow_answers_nobody() -> None:
    canary = Arm("canary", Lines(release(shop(), digest="c"), {"buy": {"price": 2}, "earn": {}}), {"buy": 1.0}, 0.5)
    shadow = Arm("dark", Lines(release(shop(), digest="d"), {"buy": {"price": 3}, "earn": {}}), {"buy": 1.0}, 0.0, True)
    live = predictor(arms=[canary, shadow])
    users = [view(user_id=f"user-{i}") for i in range(200)]
    answers = live.predict(users, now=NOW)
    given, shadows = answers[:200], answers[200:]
    assert [answer.question.values["user_id"] for answer in given] == [row["user_id"] for row in users]
    share = sum(answer.arm == "canary" for answer in given) / 200
    assert 0.4 < share < 0.6
    assert {answer.score for answer in given if answer.arm == "canary"} == {20.0}
    assert {answer.propensity for answer in given} == {0.5}
    assert all(answer.shadow and answer.score == 30.0 for answer in shadows) and len(shadows) == 200
    assert shadows[0].question.prediction_id == f"{given[0].question.prediction_id}/dark"


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(ServingError, match="not between 0 and 1"):
        predictor(arms=[Arm("canary", lines(shop()), {"buy": 1.0}, 1.5)])


def test_the_smoke_request_wants_finite_scores() -> None:
    predictor().smoke(now=NOW)
    bad = NanModel(release(shop()), {"buy": {"price": 1}, "earn": {"price": 1}})
    with pytest.raises(ServingError, match="smoke"):
        Predictor(shop(), bad, GivenFeatures(shop(), KNOWN)).smoke(now=NOW)
