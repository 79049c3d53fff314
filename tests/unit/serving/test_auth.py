"""Serving with tokens: only the probes answer without one, and each role may use its own routes."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from evermodel.credentials import Tokens
from evermodel.serving.api import create_api
from evermodel.serving.online_features import GivenFeatures
from evermodel.serving.predictions import Prediction
from evermodel.serving.predictor import Predictor
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from tests.unit.serving.serving_cases import NOW, Client, linear_model, shop, view

ITEMS = {"item": {"i1": {"views_1d": 3.0, "event_time": NOW}}}
ROUTES = [
    ("POST", "/v1/shop/predict"),
    ("POST", "/v1/shop/rank"),
    ("POST", "/v1/nowhere/predict"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/nowhere"),
    ("GET", "/healthz/"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("auth")
    roles = {"app": "caller", "prom": "service", "am": "alertmanager"}
    entries = [
        {"name": name, "role": role, "sha256": hashlib.sha256(f"token-{name}".encode()).hexdigest()}
        for name, role in roles.items()
    ]
    (folder / "tokens.json").write_text(json.dumps(entries))
    predictor = Predictor(shop(), linear_model(shop()), GivenFeatures(shop(), ITEMS))

    async def call_models(_name: str, requests: Any, selection: Any) -> list[Prediction]:
        return predictor.answer(requests, selection)

    async def ready() -> dict[str, Any]:
        return {"ready": True, "use_cases": {"shop": {"release": "abc"}}, "replica": "r1", "replicas": 2}

    log = RequestLog(str(folder / "log"), flush_seconds=60)
    service = PredictionService({"shop": shop()}, call_models, {"shop": log})
    yield Client(create_api(service, ready=ready, clock=lambda: NOW, tokens=Tokens.from_file(folder / "tokens.json")))
    service.close()


def request(client: Client, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return client.request(method, path, headers=headers, **options)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_no_route_answers_without_a_known_token(client: Client, method: str, path: str, token: str | None) -> None:
    response = request(client, method, path, token)
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("POST", "/v1/shop/predict", "token-app", 200),
        ("POST", "/v1/shop/predict", "token-prom", 403),
        ("POST", "/v1/shop/predict", "token-am", 403),
        ("GET", "/metrics", "token-prom", 200),
        ("GET", "/metrics", "token-app", 403),
        ("GET", "/openapi.json", "token-app", 200),
        ("GET", "/nowhere", "token-app", 404),
    ],
)
def test_a_role_may_use_its_own_routes(client: Client, method: str, path: str, token: str, status: int) -> None:
    body = {"json": {"rows": [view()]}} if method == "POST" else {}
    assert request(client, method, path, token, **body).status_code == status


def test_a_request_with_two_tokens_is_rejected(client: Client) -> None:
    headers = [("authorization", "Bearer token-app"), ("authorization", "Bearer wrong")]
    assert client.request("GET", "/openapi.json", headers=headers).status_code == 401


def test_probes_need_no_token_and_show_details_only_with_one(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"ready": True}
    assert request(client, "GET", "/readyz", "wrong").json() == {"ready": True}
    assert request(client, "GET", "/readyz", "token-prom").json()["replicas"] == 2
