"""The HTTP face in one process: the real app over real predictors, without Ray."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evermodel.errors import ServingError
from evermodel.serving.answers import ClassSelection, Prediction, PredictionRequest
from evermodel.serving.api import MAX_BYTES, create_api
from evermodel.serving.predictor import GivenFeatures, Predictor
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase
from tests.unit.serving.serving_cases import NOW, Client, Guide, guide, lines, release, shop, view

ITEMS = {"item": {"i1": {"views_1d": 3.0, "event_time": NOW}}}


class Kitchen:
    """Predictors in this process, that a test can slow down or break."""

    def __init__(self, electricity: UseCase) -> None:
        self.cases = {"shop": shop(), "guide": guide(), "electricity": electricity}
        self.predictors = {
            "shop": Predictor(shop(), lines(shop()), GivenFeatures(shop(), ITEMS)),
            "guide": Predictor(guide(), Guide(release(guide())), GivenFeatures(guide(), {})),
        }
        self.delay, self.error = 0.0, None

    async def ask(self, name: str, questions: Sequence[PredictionRequest], choice: ClassSelection) -> list[Prediction]:
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        if name not in self.predictors:
            return []
        return await asyncio.to_thread(self.predictors[name].answer, questions, choice)

    async def ready(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"ready": True, "use_cases": {}}


@pytest.fixture
def kitchen(electricity: UseCase) -> Kitchen:
    return Kitchen(electricity)


@pytest.fixture
def desk(kitchen: Kitchen, tmp_path: Path) -> Iterator[PredictionService]:
    logs = {name: RequestLog(str(tmp_path / name), flush_seconds=60) for name in kitchen.cases}
    desk = PredictionService(kitchen.cases, kitchen.ask, logs, max_waiting=4)
    yield desk
    desk.close()


@pytest.fixture
def client(kitchen: Kitchen, desk: PredictionService) -> Client:
    return Client(create_api(desk, ready=kitchen.ready, clock=lambda: NOW))


@pytest.fixture(scope="module")
def door(electricity: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An app that no test breaks."""
    kitchen, root = Kitchen(electricity), tmp_path_factory.mktemp("log")
    desk = PredictionService(kitchen.cases, kitchen.ask, {name: RequestLog(str(root / name)) for name in kitchen.cases})
    yield Client(create_api(desk, ready=kitchen.ready, clock=lambda: NOW))
    desk.close()


def logged(desk: PredictionService, tmp_path: Path, name: str = "shop") -> list[dict[str, Any]]:
    desk.close()
    return RequestLog(str(tmp_path / name)).read().to_pylist()


def test_an_answer_says_what_it_is_worth(client: Client, desk: PredictionService, tmp_path: Path) -> None:
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
    row = logged(desk, tmp_path)[0]
    assert (row["prediction_id"], row["views_1d"], row["release"]) == ("r-1:0", 3.0, release(shop()).id)


def test_a_retry_of_a_request_is_logged_once(client: Client, desk: PredictionService, tmp_path: Path) -> None:
    for _ in range(2):
        assert client.post("/v1/shop/predict", json={"rows": [view()], "request_id": "r-1"}).status_code == 200
    client.post("/v1/shop/predict", json={"rows": [view()]})
    assert len(logged(desk, tmp_path)) == 2


def test_items_are_ranked_and_logged_in_their_place(client: Client, desk: PredictionService, tmp_path: Path) -> None:
    context = {"user_id": "u1", "price": 10.0, "device": "web"}
    body = {"context": context, "candidates": [{"item_id": "i0"}, {"item_id": "i1"}, {"item_id": "i2"}], "k": 2}
    ranking = client.post("/v1/shop/rank", json=body).json()["ranking"]
    assert [(item["item"], item["index"]) for item in ranking] == [("i1", 1), ("i0", 0)]
    rows = logged(desk, tmp_path)
    assert {row["item_id"]: row["rank"] for row in rows} == {"i1": 1, "i0": 2, "i2": 3}
    assert len({row["request"] for row in rows}) == 1


def test_classes_are_ranked(client: Client, desk: PredictionService, tmp_path: Path) -> None:
    found = client.post("/v1/guide/rank", json={"row": {"user": "u", "seen": 2}, "k": 2}).json()
    assert [(item["item"], item["score"]) for item in found["ranking"]] == [("b", 0.4), ("d", 0.3)]
    assert logged(desk, tmp_path, "guide")[0]["classes"] == ["b", "d"]


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
def test_a_bad_request_is_told_what_and_where(
    door: Client, path: str, body: Any, status: int, code: str, field: str | None
) -> None:
    answer = door.post(f"/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (status, code, field)
    assert set(answer.json()) == {"code", "field", "reason"} and answer.json()["reason"]


def test_a_near_miss_is_named(door: Client) -> None:
    assert "did you mean 'price'" in door.post("/v1/shop/predict", json={"rows": [view(prize=1)]}).json()["reason"]
    assert "did you mean 'shop'" in door.post("/v1/shoop/predict", json={}).json()["reason"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"rows": [', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b" " * (MAX_BYTES + 1), 413, "too_large"),
    ],
)
def test_what_is_no_json_is_told_so(door: Client, content: bytes, status: int, code: str) -> None:
    answer = door.post("/v1/shop/predict", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_another_method_is_told_which_one(door: Client) -> None:
    answer = door.get("/v1/shop/predict")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method_not_allowed", "POST")


# when the models are slow or gone ---------------------------------------------------------------------------------------


def test_a_slow_model_is_answered_for_within_the_deadline(client: Client, kitchen: Kitchen) -> None:
    known = client.post("/v1/shop/predict", json={"rows": [view()]}).json()["answers"][0]["score"]
    kitchen.delay = 5.0
    start = time.monotonic()
    answer = client.post("/v1/shop/predict", json={"rows": [view(price=1.0)]}).json()["answers"][0]
    assert time.monotonic() - start < 0.6  # the deadline is 0.5 s
    assert (answer["score"], answer["fallback"], answer["reason"], answer["source"]) == (
        known,
        True,
        "model_timeout",
        "last_known",
    )


def test_models_that_were_too_slow_are_asked_one_question_at_a_time(kitchen: Kitchen, desk: PredictionService) -> None:
    kitchen.delay = 5.0
    questions = kitchen.predictors["shop"].questions([view()], now=NOW)

    async def together(count: int) -> list[str | None]:
        found = await asyncio.gather(*(desk.answer("shop", questions, ClassSelection(None, 10)) for _ in range(count)))
        return [answers[0].reason for answers in found]

    async def days() -> None:
        assert await together(4) == ["model_timeout"] * 4
        assert await together(4) == ["model_timeout", *["model_busy"] * 3], "the others don't wait for the deadline"
        kitchen.delay = 0.0
        while await together(4) != [None] * 4:
            pass

    asyncio.run(asyncio.wait_for(days(), 10))


def test_models_that_are_gone_are_answered_for_and_reported(
    client: Client, kitchen: Kitchen, desk: PredictionService, tmp_path: Path
) -> None:
    kitchen.error = RuntimeError("Traceback: a secret")
    answer = client.post("/v1/shop/predict", json={"rows": [view()]})
    assert (answer.status_code, answer.json()["answers"][0]["reason"]) == (200, "model_gone")
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert client.get("/healthz").status_code == 200
    assert "secret" not in answer.text + ready.text
    assert logged(desk, tmp_path)[0]["fallback_reason"] == "model_gone"


def test_a_use_case_without_a_model_yet_is_answered_for(client: Client) -> None:
    row = {"day": 1, "period": 0.5, "nswdemand": 0.5, "vicprice": 0.0, "vicdemand": 0.4, "transfer": 0.4}
    answer = client.post("/v1/electricity/predict", json={"rows": [row]}).json()["answers"][0]
    assert (answer["reason"], answer["release"], answer["score"]) == ("no_model", None, 0.0)


def test_models_that_are_overloaded_say_so(client: Client, kitchen: Kitchen) -> None:
    kitchen.error = ServingError("overloaded", "too many requests are waiting")
    answer = client.post("/v1/shop/predict", json={"rows": [view()]})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "overloaded", "1")


def test_beyond_so_many_waiting_the_rest_is_turned_away(kitchen: Kitchen, desk: PredictionService) -> None:
    kitchen.delay = 0.1
    questions = kitchen.predictors["shop"].questions([view()], now=NOW)

    async def storm() -> list[Any]:
        asked = (desk.answer("shop", questions, ClassSelection(None, 10)) for _ in range(6))
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(storm())
    assert [isinstance(answer, ServingError) for answer in found] == [False] * 4 + [True] * 2


def test_a_fault_of_ours_is_opaque(client: Client, desk: PredictionService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_count", lambda *_: 1 / 0)
    answer = client.post("/v1/shop/predict", json={"rows": [view()]})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "ZeroDivision" not in answer.text


def test_figures_count_requests_and_fallbacks(client: Client, kitchen: Kitchen) -> None:
    client.post("/v1/shop/predict", json={"rows": [view(), view()]})
    client.post("/v1/shop/predict", json={"rows": []})
    kitchen.error = RuntimeError()
    client.post("/v1/shop/predict", json={"rows": [view()]})
    text = client.get("/metrics").text
    assert 'evermodel_requests_total{status="200",use_case="shop",verb="predict"} 2.0' in text
    assert 'evermodel_requests_total{status="422",use_case="shop",verb="predict"} 1.0' in text
    assert f'evermodel_answers_total{{arm="champion",release="{release(shop()).id}",use_case="shop"}} 2.0' in text
    assert 'reason="model_gone"' in text and 'evermodel_request_log_waiting{use_case="shop"} 3.0' in text


def test_openapi_says_what_a_use_case_takes(door: Client) -> None:
    schema = door.get("/openapi.json").json()
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
