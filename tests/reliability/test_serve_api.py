"""Fuzzes the real HTTP app, in one process, against its own OpenAPI schema."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core import NotSet
from schemathesis.specs.openapi.checks import positive_data_acceptance

from evermodel.bundle import open_release
from evermodel.serving.api import create_api
from evermodel.serving.online_features import GivenFeatures
from evermodel.serving.predictions import ClassSelection, Prediction, PredictionRequest
from evermodel.serving.predictor import Predictor
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase, parse
from tests.reliability.served_shop import NOW, SHOP, make_release

FUZZ = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def app(electricity: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """The shop has a model, electricity has none."""
    shop = parse(SHOP, name="shop")
    cases = {"shop": shop, "electricity": electricity}
    release = make_release(shop, tmp_path_factory.mktemp("release"), seed=1)
    predictor = Predictor(shop, open_release(release), GivenFeatures(shop, {}))

    async def call_models(
        name: str, requests: Sequence[PredictionRequest], selection: ClassSelection
    ) -> list[Prediction]:
        return predictor.answer(requests, selection) if name == "shop" else []

    async def ready() -> dict[str, Any]:
        return {"ready": True, "use_cases": {}}

    root = tmp_path_factory.mktemp("log")
    service = PredictionService(cases, call_models, {name: RequestLog(str(root / name)) for name in cases})
    yield create_api(service, ready=ready, clock=lambda: NOW)
    service.close()


def send(app: FastAPI, case: schemathesis.Case) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = case.body if isinstance(case.body, (bytes, NotSet)) else json.dumps(case.body).encode()
            headers = {"content-type": "application/json", **(case.headers or {})}
            return await client.request(
                case.method,
                case.formatted_path,
                headers=headers,
                content=b"" if isinstance(content, NotSet) else content,
            )

    return asyncio.run(call())


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", ["/v1/shop/predict", "/v1/shop/rank", "/v1/electricity/predict"])
def test_every_response_is_one_that_openapi_allows(app: FastAPI, path: str, mode: GenerationMode) -> None:
    """Responses match their schemas and status codes. Valid rows are accepted; invalid ones get a reason."""
    operation = schemathesis.openapi.from_dict(app.openapi())[path]["POST"]
    # a ranking's context and candidates are valid only together, which no schema can express
    excluded = [positive_data_acceptance] if path.endswith("rank") else []

    @FUZZ
    @given(operation.as_strategy(generation_mode=mode))
    def fuzz(case: schemathesis.Case) -> None:
        response = send(app, case)
        assert response.status_code < 500, response.text
        case.validate_response(response, excluded_checks=excluded)
        if response.status_code >= 400:
            assert set(response.json()) == {"code", "field", "reason"}

    fuzz()
