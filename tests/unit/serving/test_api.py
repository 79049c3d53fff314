"""The HTTP API in one process: the real app with real predictors, without Ray."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evermodel.errors import ServingError
from evermodel.serving.api import create_api
from evermodel.serving.middleware import MAX_BYTES
from evermodel.serving.online_features import GivenFeatures
from evermodel.serving.predictions import TOP_TEN, ClassSelection, Prediction, PredictionRequest
from evermodel.serving.predictor import Predictor
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase
from tests.support.waiting import scaled
from tests.unit.serving.serving_cases import (
    NOW,
    CategoryModel,
    Client,
    guide,
    linear_model,
    release,
    shop,
    view,
)

ITEMS = {"item": {"i1": {"views_1d": 3.0, "event_time": NOW}}}


class FakeModels:
    """Predictors in this process, which a test can stop (`hangs`) or break (`error`)."""

    def __init__(self, electricity: UseCase) -> None:
        self.cases = {"shop": shop(), "guide": guide(), "electricity": electricity}
        self.predictors = {
            "shop": Predictor(shop(), linear_model(shop()), GivenFeatures(shop(), ITEMS)),
            "guide": Predictor(guide(), CategoryModel(release(guide())), GivenFeatures(guide(), {})),
        }
        self.hangs = False
        self.error: Exception | None = None

    async def answer(
        self, name: str, requests: Sequence[PredictionRequest], selection: ClassSelection
    ) -> list[Prediction]:
        if self.hangs:
            await asyncio.Event().wait()  # for ever: whoever waits must have a deadline
        if self.error is not None:
            raise self.error
        if name not in self.predictors:
            return []
        return await asyncio.to_thread(self.predictors[name].answer, requests, selection)

    async def ready(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"ready": True, "use_cases": {}}


@pytest.fixture
def models(electricity: UseCase) -> FakeModels:
    return FakeModels(electricity)


@pytest.fixture
def service(models: FakeModels, tmp_path: Path) -> Iterator[PredictionService]:
    logs = {name: RequestLog(str(tmp_path / name), flush_seconds=60) for name in models.cases}
    service = PredictionService(models.cases, models.answer, logs, max_waiting=4)
    yield service
    service.close()


@pytest.fixture
def client(models: FakeModels, service: PredictionService) -> Client:
    return Client(create_api(service, ready=models.ready, clock=lambda: NOW))


@pytest.fixture(scope="module")
def shared_client(electricity: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An app that no test breaks."""
    models, root = FakeModels(electricity), tmp_path_factory.mktemp("log")
    logs = {name: RequestLog(str(root / name)) for name in models.cases}
    service = PredictionService(models.cases, models.answer, logs)
    yield Client(create_api(service, ready=models.ready, clock=lambda: NOW))
    service.close()


def logged(service: PredictionService, tmp_path: Path, name: str = "shop") -> list[dict[str, Any]]:
    service.close()
    return RequestLog(str(tmp_path / name)).read().to_pylist()


def test_an_answer_has_its_score_release_and_arm(client: Client, service: PredictionService, tmp_path: Path) -> None:
    answers = client.post("/v1/shop/predict", json={"rows": [view()], "request_id": "r-1"}).json()["answers"]
    assert answers == [
        {
            "prediction_id": "r-1:0",
            "score": 310 + 0.5 * (1 + 12 - 1000),
            "scores": {"buy": 310.0, "earn": -987.0},
            "classes": None,
            "release": release(shop()).id,
            "arm": "champion",
            "fallback": False,
            "reason": None,
            "source": None,
        }
    ]
    row = logged(service, tmp_path)[0]
    assert (row["prediction_id"], row["views_1d"], row["release"]) == ("r-1:0", 3.0, release(shop()).id)


def test_a_retry_of_a_request_is_logged_once(client: Client, service: PredictionService, tmp_path: Path) -> None:
    for _ in range(2):
        assert client.post("/v1/shop/predict", json={"rows": [view()], "request_id": "r-1"}).status_code == 200
    client.post("/v1/shop/predict", json={"rows": [view()]})
    assert len(logged(service, tmp_path)) == 2


def test_items_are_ranked_and_logged_with_their_rank(
    client: Client, service: PredictionService, tmp_path: Path
) -> None:
    context = {"user_id": "u1", "price": 10.0, "device": "web"}
    body = {"context": context, "candidates": [{"item_id": "i0"}, {"item_id": "i1"}, {"item_id": "i2"}], "k": 2}
    ranking = client.post("/v1/shop/rank", json=body).json()["ranking"]
    assert [(item["item"], item["index"]) for item in ranking] == [("i1", 1), ("i0", 0)]
    rows = logged(service, tmp_path)
    assert {row["item_id"]: row["rank"] for row in rows} == {"i1": 1, "i0": 2, "i2": 3}
    assert len({row["request"] for row in rows}) == 1


def test_classes_are_ranked(client: Client, service: PredictionService, tmp_path: Path) -> None:
    body = client.post("/v1/guide/rank", json={"row": {"user": "u", "seen": 2}, "k": 2}).json()
    assert [(item["item"], item["score"]) for item in body["ranking"]] == [("b", 0.4), ("d", 0.3)]
    assert logged(service, tmp_path, "guide")[0]["classes"] == ["b", "d"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field"),
    [
        ("shop/predict", {"rows": [view(price=-1)]}, 422, "out_of_range", "rows[0].price"),
        ("shop/predict", {"rows": [view(), view(prize=1)]}, 422, "unknown_field", "rows[1].prize"),
        ("shop/predict", {"rows": []}, 422, "out_of_range", "rows"),
        ("shop/predict", {"rows": [view()] * 1001}, 422, "out_of_range", "rows"),
        ("shop/predict", {}, 422, "missing", "rows"),
        ("shop/predict", [], 422, "wrong_type", None),
        ("shop/predict", {"rows": [view()], "request_id": "a/b"}, 422, "out_of_range", "request_id"),
        ("shop/predict", {"rows": [view()], "at": "2026-01-31T12:00:00Z"}, 422, "unknown_field", "at"),
        (
            "shop/rank",
            {"context": {}, "candidates": [view(), {"item_id": "i"}]},
            422,
            "missing",
            "candidates[1].user_id",
        ),
        ("shop/rank", {"candidates": [view(device="tv")]}, 422, "not_allowed", "candidates[0].device"),
        ("guide/rank", {"row": {"user": "u"}}, 422, "missing", "row.seen"),
        ("shoop/predict", {"rows": []}, 404, "unknown_use_case", "use_case"),
        ("electricity/rank", {}, 404, "not_rankable", "verb"),
        ("shop/predikt", {}, 404, "not_found", None),
    ],
)
def test_a_bad_request_gets_a_code_a_field_and_a_reason(
    shared_client: Client, path: str, body: Any, status: int, code: str, field: str | None
) -> None:
    response = shared_client.post(f"/v1/{path}", json=body)
    assert (response.status_code, response.json()["code"], response.json()["field"]) == (status, code, field)
    assert set(response.json()) == {"code", "field", "reason"} and response.json()["reason"]


def test_the_reason_names_the_nearest_valid_name(shared_client: Client) -> None:
    assert (
        "did you mean 'price'"
        in shared_client.post("/v1/shop/predict", json={"rows": [view(prize=1)]}).json()["reason"]
    )
    assert "did you mean 'shop'" in shared_client.post("/v1/shoop/predict", json={}).json()["reason"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"rows": [', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b" " * (MAX_BYTES + 1), 413, "too_large"),
    ],
)
def test_a_body_that_is_no_json_or_too_large_is_rejected(
    shared_client: Client, content: bytes, status: int, code: str
) -> None:
    response = shared_client.post("/v1/shop/predict", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_wrong_method_is_told_the_right_one(shared_client: Client) -> None:
    response = shared_client.get("/v1/shop/predict")
    assert (response.status_code, response.json()["code"], response.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST",
    )


# when the models hang or are gone --------------------------------------------------------------------------------------


def test_the_fallback_answers_if_the_models_hang(client: Client, models: FakeModels) -> None:
    last_known = client.post("/v1/shop/predict", json={"rows": [view()]}).json()["answers"][0]["score"]
    models.hangs = True
    answer = client.post("/v1/shop/predict", json={"rows": [view(price=1.0)]}).json()["answers"][0]
    assert (answer["score"], answer["fallback"], answer["reason"], answer["source"]) == (
        last_known,
        True,
        "model_timeout",
        "last_known",
    )


def test_models_that_hung_get_one_request_at_a_time_until_they_answer(
    models: FakeModels, service: PredictionService
) -> None:
    models.hangs = True
    requests = models.predictors["shop"].make_requests([view()], now=NOW)

    async def answer_together(count: int) -> list[str | None]:
        answered = await asyncio.gather(*(service.answer("shop", requests, TOP_TEN) for _ in range(count)))
        return [predictions[0].reason for predictions in answered]

    async def hang_and_recover() -> None:
        assert await answer_together(4) == ["model_timeout"] * 4
        assert await answer_together(4) == ["model_timeout", *["model_busy"] * 3]
        models.hangs = False
        while await answer_together(4) != [None] * 4:
            pass

    asyncio.run(asyncio.wait_for(hang_and_recover(), scaled(10)))


def test_the_fallback_answers_if_the_models_are_gone_and_readyz_reports_it(
    client: Client, models: FakeModels, service: PredictionService, tmp_path: Path
) -> None:
    models.error = RuntimeError("Traceback: a secret")
    response = client.post("/v1/shop/predict", json={"rows": [view()]})
    assert (response.status_code, response.json()["answers"][0]["reason"]) == (200, "model_gone")
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert client.get("/healthz").status_code == 200
    assert "secret" not in response.text + ready.text
    assert logged(service, tmp_path)[0]["fallback_reason"] == "model_gone"


def test_the_fallback_answers_if_there_is_no_model_yet(client: Client) -> None:
    row = {"day": 1, "period": 0.5, "nswdemand": 0.5, "vicprice": 0.0, "vicdemand": 0.4, "transfer": 0.4}
    answer = client.post("/v1/electricity/predict", json={"rows": [row]}).json()["answers"][0]
    assert (answer["reason"], answer["release"], answer["score"]) == ("no_model", None, 0.0)


def test_overloaded_models_give_429(client: Client, models: FakeModels) -> None:
    models.error = ServingError("overloaded", "too many requests are waiting")
    response = client.post("/v1/shop/predict", json={"rows": [view()]})
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (429, "overloaded", "1")


def test_requests_beyond_the_waiting_limit_are_rejected(models: FakeModels, service: PredictionService) -> None:
    models.hangs = True
    requests = models.predictors["shop"].make_requests([view()], now=NOW)

    async def answer_six() -> list[Any]:
        calls = (service.answer("shop", requests, TOP_TEN) for _ in range(6))
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(answer_six())
    assert [isinstance(result, ServingError) for result in results] == [False] * 4 + [True] * 2


def test_a_fault_of_the_server_is_opaque(
    client: Client, service: PredictionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> list[Prediction]:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(service, "answer", fail)
    response = client.post("/v1/shop/predict", json={"rows": [view()]})
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "ZeroDivision" not in response.text and "secret" not in response.text


def test_metrics_count_requests_and_fallbacks(client: Client, models: FakeModels) -> None:
    client.post("/v1/shop/predict", json={"rows": [view(), view()]})
    client.post("/v1/shop/predict", json={"rows": []})
    models.error = RuntimeError()
    client.post("/v1/shop/predict", json={"rows": [view()]})
    text = client.get("/metrics").text
    assert 'evermodel_requests_total{status="200",use_case="shop",verb="predict"} 2.0' in text
    assert 'evermodel_requests_total{status="422",use_case="shop",verb="predict"} 1.0' in text
    assert f'evermodel_answers_total{{arm="champion",release="{release(shop()).id}",use_case="shop"}} 2.0' in text
    assert 'reason="model_gone"' in text and 'evermodel_request_log_waiting{use_case="shop"} 3.0' in text


def test_openapi_states_the_routes_and_fields_of_a_use_case(shared_client: Client) -> None:
    schema = shared_client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/shop/predict",
        "/v1/shop/rank",
        "/v1/guide/predict",
        "/v1/guide/rank",
        "/v1/electricity/predict",
    }
    row = schema["components"]["schemas"]["shop_row"]
    assert set(row["required"]) == {"user_id", "item_id", "price", "device"}
    assert row["properties"]["price"] | {"title": ""} == {
        "type": "number",
        "minimum": 0.0,
        "maximum": 100.0,
        "description": "EUR",
        "title": "",
    }
    assert row["additionalProperties"] is False
