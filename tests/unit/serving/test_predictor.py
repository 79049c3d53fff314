from collections.abc import Iterator, Sequence
from datetime import timedelta
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evermodel.errors import DataError, FeatureStoreError, ServingError
from evermodel.scores import Scores
from evermodel.serving.online_features import GivenFeatures
from evermodel.serving.predictions import log_rows
from evermodel.serving.predictor import Arm, Predictor
from evermodel.serving.request_log import served_schema
from tests.support.use_cases import make_use_case
from tests.unit.serving.serving_cases import (
    GUIDE,
    NOW,
    CategoryModel,
    LinearModel,
    guide,
    linear_model,
    release,
    shop,
    view,
)

STORED: dict[str, dict[Any, dict[str, Any]]] = {
    "item": {"i1": {"views_1d": 3.0, "event_time": NOW}, "i2": {"views_1d": 1.0, "event_time": NOW}},
    "user": {"u1": {"mean_price_7d": 20.0, "event_time": NOW}},
}


def make_predictor(**options: Any) -> Predictor:
    return Predictor(shop(), linear_model(shop()), GivenFeatures(shop(), STORED), **options)


def test_a_score_is_the_weighted_sum_of_the_objectives() -> None:
    prediction = make_predictor().predict([view(position=7)], now=NOW)[0]
    assert prediction.scores == {
        "buy": 10 + 100 * 3,
        "earn": 1 + 12 + 20,
    }  # position is served as 1, the hour is `now`'s
    assert prediction.score == 310 + 0.5 * 33
    assert (prediction.arm, prediction.propensity, prediction.fallback, prediction.release) == (
        "champion",
        1.0,
        False,
        release(shop()).id,
    )


def test_weights_change_the_sum_and_nothing_else() -> None:
    prediction = make_predictor(weights={"buy": 0.0, "earn": 2.0}).predict([view()], now=NOW)[0]
    assert (prediction.score, prediction.scores["buy"]) == (66.0, 310.0)
    with pytest.raises(ServingError, match="did you mean 'earn'"):
        make_predictor(weights={"earm": 1.0})


def test_features_are_logged_as_they_were_used() -> None:
    prediction = make_predictor().predict([view(position=7)], now=NOW)[0]
    row = log_rows(shop(), [prediction]).to_pylist()[0]
    expected = {"position": 1, "hour": 12.0, "views_1d": 3.0, "mean_price_7d": 20.0, "device_country": "web|nl"}
    assert {name: row[name] for name in expected} == expected
    assert (row["score:buy"], row["row_id"], row["event_time"], row["fallback"]) == (310.0, None, NOW, False)
    assert log_rows(shop(), [prediction]).schema == served_schema(shop())


def test_counts_of_an_entity_without_events_are_0_and_stale_values_are_unknown() -> None:
    stale = {"item": {"i1": {"views_1d": 3.0, "event_time": NOW - timedelta(days=8)}}, "user": {}}
    predictor = Predictor(shop(), linear_model(shop()), GivenFeatures(shop(), stale))
    predictions = predictor.predict([view(), view(item_id="new")], now=NOW)
    assert [prediction.row["views_1d"] for prediction in predictions] == [None, 0.0]
    assert [prediction.row["mean_price_7d"] for prediction in predictions] == [None, None]  # no events have no mean


def test_ranking_is_best_first_and_ties_keep_their_order() -> None:
    candidates = [{"item_id": name} for name in ("i9", "i2", "i1", "i8")]
    context = {key: value for key, value in view().items() if key != "item_id"}
    ranking = make_predictor().rank(context, candidates, now=NOW)
    assert [(prediction.request.values["item_id"], prediction.rank) for prediction in ranking] == [
        ("i1", 1),
        ("i2", 2),
        ("i9", 3),
        ("i8", 4),
    ]
    assert [prediction.rank for prediction in make_predictor().rank(context, candidates, now=NOW, k=2)] == [1, 2]
    assert len({prediction.request.values["request"] for prediction in ranking}) == 1


def test_only_the_requested_classes_are_ranked() -> None:
    predictor = Predictor(guide(), CategoryModel(release(guide())), GivenFeatures(guide(), {}))
    row = {"user": "u", "seen": 2}  # scores × 10: a: 2, b: 4, c: 1, d: 3
    best = predictor.rank(row, None, now=NOW)[0]
    assert (best.classes, best.class_scores, best.score) == (("b", "d", "a", "c"), (0.4, 0.3, 0.2, 0.1), None)
    assert predictor.rank(row, ["a", "c", "nowhere"], now=NOW)[0].classes == ("a", "c")
    assert predictor.rank(row, None, now=NOW, k=1)[0].classes == ("b",)


def test_an_invalid_row_is_named_by_its_position() -> None:
    with pytest.raises(ServingError) as caught:
        make_predictor().predict([view(), view(price=-1)], now=NOW)
    assert (caught.value.code, caught.value.field) == ("out_of_range", "rows[1].price")


# when a part is down --------------------------------------------------------------------------------------------------

END = Event()  # set after each test: a part that hangs does so until then


@pytest.fixture(autouse=True)
def end_of_test() -> Iterator[None]:
    END.clear()
    yield
    END.set()


class HangingStore(GivenFeatures):
    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        END.wait()
        return super().read(entity, keys, timeout_s=timeout_s)


class UnavailableStore(GivenFeatures):
    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        raise FeatureStoreError("gone")


class BrokenStore(GivenFeatures):
    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        raise OSError("an exception of the store's own")


class HangingModel(LinearModel):
    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        END.wait()
        return super().scores(rows)


class BrokenModel(LinearModel):
    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        raise RuntimeError("a model's own exception")


class NanModel(LinearModel):
    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        return {name: Scores(part.kind, part.values * np.nan) for name, part in super().scores(rows).items()}


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        (HangingStore, "feature_store_timeout"),
        (UnavailableStore, "feature_store_error"),
        (BrokenStore, "feature_store_error"),
    ],
)
def test_the_fallback_answers_if_the_store_hangs_or_fails(store: type[GivenFeatures], reason: str) -> None:
    predictor = Predictor(shop(), linear_model(shop()), store(shop(), STORED))
    predictions = predictor.predict([view(stars=4.0), view(item_id="i2")], now=NOW)
    assert not END.is_set(), "it must not wait for the store"
    assert [(prediction.score, prediction.reason, prediction.source) for prediction in predictions] == [
        (4.0, reason, "heuristic"),
        (0.25, reason, "constant"),
    ]
    assert all(prediction.fallback and prediction.release is None for prediction in predictions)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(HangingModel, "model_timeout"), (BrokenModel, "model_error"), (NanModel, "model_not_finite")],
)
def test_the_last_known_score_answers_if_the_model_hangs_or_fails(model: type[LinearModel], reason: str) -> None:
    healthy = make_predictor()
    last_known = healthy.predict([view()], now=NOW)[0].score
    failing = model(release(shop()), {"buy": {"price": 1}, "earn": {"price": 1}})
    predictor = Predictor(shop(), failing, GivenFeatures(shop(), STORED), fallback=healthy.fallback)
    prediction = predictor.predict([view(price=99.0)], now=NOW)[0]
    assert (prediction.score, prediction.reason, prediction.source) == (last_known, reason, "last_known")
    assert prediction.row["views_1d"] == 3.0  # the features were read, and are logged


def test_a_category_falls_back_to_classes() -> None:
    healthy = Predictor(guide(), CategoryModel(release(guide())), GivenFeatures(guide(), {}))
    row = {"user": "u", "seen": 2}
    healthy.rank(row, None, now=NOW)
    broken = BrokenModel(release(guide()), {"next": {}})
    predictor = Predictor(guide(), broken, GivenFeatures(guide(), {}), fallback=healthy.fallback)
    assert predictor.rank(row, ["x", "a", "d"], now=NOW)[0].classes == ("d", "a", "x")
    assert predictor.rank({"user": "new", "seen": 2}, ["x", "a"], now=NOW)[0].classes == ("x", "a")


# arms -----------------------------------------------------------------------------------------------------------------


def test_arms_share_the_units_and_a_shadow_answers_nobody() -> None:
    canary_model = LinearModel(release(shop(), digest="c"), {"buy": {"price": 2}, "earn": {}})
    shadow_model = LinearModel(release(shop(), digest="d"), {"buy": {"price": 3}, "earn": {}})
    canary = Arm("canary", canary_model, {"buy": 1.0}, 0.5)
    shadow = Arm("dark", shadow_model, {"buy": 1.0}, 0.0, True)
    users = [view(user_id=f"user-{i}") for i in range(200)]
    predictions = make_predictor(arms=[canary, shadow]).predict(users, now=NOW)
    answered, shadows = predictions[:200], predictions[200:]
    assert [prediction.request.values["user_id"] for prediction in answered] == [row["user_id"] for row in users]
    share = sum(prediction.arm == "canary" for prediction in answered) / 200
    assert 0.4 < share < 0.6
    assert {prediction.score for prediction in answered if prediction.arm == "canary"} == {20.0}
    assert {prediction.propensity for prediction in answered} == {0.5}
    assert all(prediction.shadow and prediction.score == 30.0 for prediction in shadows) and len(shadows) == 200
    assert shadows[0].request.prediction_id == f"{answered[0].request.prediction_id}/dark"


def test_a_share_above_1_is_refused() -> None:
    with pytest.raises(ServingError, match="not between 0 and 1"):
        make_predictor(arms=[Arm("canary", linear_model(shop()), {"buy": 1.0}, 1.5)])


def test_the_smoke_request_requires_finite_scores() -> None:
    make_predictor().smoke(now=NOW)
    bad = NanModel(release(shop()), {"buy": {"price": 1}, "earn": {"price": 1}})
    with pytest.raises(ServingError, match="smoke"):
        Predictor(shop(), bad, GivenFeatures(shop(), STORED)).smoke(now=NOW)


class OtherClassesModel(CategoryModel):
    """Two objectives whose classes differ."""

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        return {**super().scores(rows), "other": Scores("category", np.zeros((rows.num_rows, 1)), ("z",))}


def test_a_model_whose_scores_cannot_be_added_fails_its_smoke_request_and_gets_the_fallback() -> None:
    case = make_use_case(**GUIDE, objectives={"next": "next", "other": "next"})
    predictor = Predictor(case, OtherClassesModel(release(case)), GivenFeatures(case, {}))
    with pytest.raises(DataError, match="same classes"):
        predictor.smoke(now=NOW)
    assert predictor.predict([{"user": "u", "seen": 2}], now=NOW)[0].reason == "model_error"
