"""The HTTP API: one FastAPI app with routes for each use case, so that OpenAPI states what each one accepts.

    POST /v1/{use_case}/predict, POST /v1/{use_case}/rank, GET /healthz, /readyz, /metrics

A wrong request gets a `Problem` (code, field, reason). A fault of the server gets an opaque 500, never a trace. See
`schemas` for the bodies and `service` for how a prediction is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from evermodel.credentials import Tokens
from evermodel.errors import ServingError, nearest
from evermodel.serving.auth import TokenMiddleware, authorization
from evermodel.serving.middleware import BodySizeMiddleware, MetricsMiddleware
from evermodel.serving.predictions import TOP_TEN, ClassSelection, Prediction, make_requests
from evermodel.serving.schemas import (
    PredictedRow,
    PredictResponse,
    Problem,
    RankedItem,
    RankResponse,
    describe_error,
    is_rankable,
    parse_row,
    predict_request,
    problem_response,
    rank_request,
    ranks_classes,
    row_model,
    row_names,
    values_of,
)
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase

STATUS_OF_CODE = {"overloaded": 429, "unknown_use_case": 404, "not_rankable": 404, "not_ready": 503}
CODE_OF_STATUS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "not_json"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The body can't be read",
        413: "The body is too large",
        422: "A field is missing, unknown or out of range",
        429: "Too many requests are waiting",
    }.items()
}
Readiness = Callable[[], Awaitable[Mapping[str, Any]]]
Clock = Callable[[], datetime]


def create_api(
    service: PredictionService,
    *,
    ready: Readiness,
    clock: Clock,
    simulated_time: bool = False,
    tokens: Tokens | None = None,
) -> FastAPI:
    """The app for a service. `ready`: calls `ModelManager.status`, here or in another process. `simulated_time`: a
    request may have `at`. `tokens`: who may call; None: everybody who can reach the port."""
    api = FastAPI(title="Evermodel", version="1", description="Predictions by id; see each use case's own routes.")
    api.add_middleware(BodySizeMiddleware)
    api.add_middleware(TokenMiddleware, tokens=tokens)
    api.add_middleware(MetricsMiddleware, metrics=service.metrics, use_cases=service.use_cases)  # the outermost
    _add_errors(api, service)
    _add_probes(api, service, ready, tokens)
    for name, use_case in service.use_cases.items():
        _add_predict(api, service, name, use_case, clock, simulated_time)
        if is_rankable(use_case):
            _add_rank(api, service, name, use_case, clock, simulated_time)

    @api.post("/v1/{use_case}/{verb}", include_in_schema=False)
    async def unknown(use_case: str, verb: str) -> None:
        if use_case not in service.use_cases:
            reason = f"no use case {use_case!r}; {nearest(use_case, service.use_cases)}"
            raise ServingError("unknown_use_case", reason, field="use_case")
        if verb == "rank":
            raise ServingError("not_rankable", f"{use_case} has no items or classes to rank; use predict", field="verb")
        raise HTTPException(404, f"no verb {verb!r}; {nearest(verb, ('predict', 'rank'))}")

    return api


def _add_predict(
    api: FastAPI, service: PredictionService, name: str, use_case: UseCase, clock: Clock, simulated_time: bool
) -> None:
    body: Any = predict_request(use_case, simulated_time=simulated_time)

    async def predict(request: Any) -> PredictResponse:
        rows = [values_of(use_case, row) for row in request.rows]
        at, request_id = _time_and_id(request, clock)
        requests = make_requests(use_case, rows, request_id=request_id, at=at)
        predictions = await service.answer(name, requests, TOP_TEN)
        return PredictResponse(answers=[_predicted_row(prediction) for prediction in predictions])

    predict.__annotations__["request"] = body  # the model is made at run time, so no annotation can name it
    summary = f"Answer rows of {name}"
    api.post(f"/v1/{name}/predict", responses=ERRORS, summary=summary, operation_id=f"{name}_predict")(predict)


def _add_rank(
    api: FastAPI, service: PredictionService, name: str, use_case: UseCase, clock: Clock, simulated_time: bool
) -> None:
    body: Any = rank_request(use_case, simulated_time=simulated_time)
    row = row_model(use_case)

    async def rank_classes(request: Any) -> RankResponse:
        at, request_id = _time_and_id(request, clock)
        requests = make_requests(use_case, [values_of(use_case, request.row)], request_id=request_id, at=at)
        wanted = None if request.candidates is None else tuple(request.candidates)
        prediction = (await service.answer(name, requests, ClassSelection(wanted, request.k)))[0]
        return _rank_response([prediction], _ranked_classes(prediction))

    async def rank_items(request: Any) -> RankResponse:
        context = _given_fields(request.context) if request.context else {}
        rows = []
        for i, candidate in enumerate(request.candidates):
            rows.append(parse_row(use_case, row, {**context, **_given_fields(candidate)}, where=f"candidates[{i}]"))
        at, request_id = _time_and_id(request, clock)
        requests = make_requests(use_case, rows, request_id=request_id, at=at)
        predictions = await service.answer(name, requests, ClassSelection(None, None), rank=True)
        return _rank_response(predictions, _ranked_items(use_case, predictions)[: request.k])

    rank = rank_classes if ranks_classes(use_case) else rank_items
    rank.__annotations__["request"] = body
    summary = f"Order the candidates of {name}, best first"
    api.post(f"/v1/{name}/rank", responses=ERRORS, summary=summary, operation_id=f"{name}_rank")(rank)


def _add_probes(api: FastAPI, service: PredictionService, ready: Readiness, tokens: Tokens | None) -> None:
    @api.get("/healthz", summary="Whether this process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get(
        "/readyz", summary="Which releases are served", responses={503: {"description": "A use case has no model"}}
    )
    async def readyz(request: Request, response: Response) -> dict[str, Any]:
        try:
            status = dict(await ready())
        except Exception:  # the models' process is gone, which is what the probe reports
            status = {"ready": False, "error": "the models don't answer", "use_cases": {}}
        response.status_code = 200 if status["ready"] else 503
        may_see_all = tokens is None or tokens.authenticate(authorization(request.scope)) is not None
        return status if may_see_all else {"ready": status["ready"]}

    @api.get("/metrics", summary="Prometheus metrics of this process", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(api: FastAPI, service: PredictionService) -> None:
    @api.exception_handler(ServingError)
    async def on_serving_error(_request: Request, error: ServingError) -> JSONResponse:
        status = STATUS_OF_CODE.get(error.code, 422)
        headers = {"Retry-After": "1"} if status == 429 else None
        return problem_response(status, Problem(code=error.code, field=error.field, reason=error.reason), headers)

    @api.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = f"the body is no JSON: {first['ctx']['error']}"
            return problem_response(400, Problem(code="invalid_json", field=None, reason=reason))
        steps = request.url.path.split("/")
        use_case = service.use_cases.get(steps[2]) if len(steps) > 2 else None
        is_in_row = any(step in ("rows", "row", "context", "candidates") for step in first["loc"][:-1])
        return problem_response(422, describe_error(first, valid=row_names(use_case) if use_case and is_in_row else ()))

    @api.exception_handler(HTTPException)
    async def on_http(_request: Request, error: HTTPException) -> JSONResponse:
        code = CODE_OF_STATUS.get(error.status_code, "bad_request")
        return problem_response(
            error.status_code, Problem(code=code, field=None, reason=str(error.detail)), error.headers
        )

    @api.exception_handler(Exception)
    async def on_fault(_request: Request, _error: Exception) -> JSONResponse:
        return problem_response(500, Problem(code="internal", field=None, reason="the server failed; see its log"))


def _time_and_id(request: Any, clock: Clock) -> tuple[datetime, str]:
    """The request's own time and id, else the clock's time and a new id."""
    return getattr(request, "at", None) or clock(), request.request_id or uuid4().hex


def _given_fields(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(by_alias=True, exclude_unset=True)


def _predicted_row(prediction: Prediction) -> PredictedRow:
    return PredictedRow(
        prediction_id=prediction.request.prediction_id,
        score=prediction.score,
        scores=dict(prediction.scores),
        classes=None if prediction.classes is None else list(prediction.classes),
        release=prediction.release,
        arm=prediction.arm,
        fallback=prediction.fallback,
        reason=prediction.reason,
        source=prediction.source,
    )


def _ranked_items(use_case: UseCase, predictions: Sequence[Prediction]) -> list[RankedItem]:
    return [
        RankedItem(
            item=prediction.request.values.get(use_case.predict.item or ""),
            index=int(prediction.request.prediction_id.rpartition(":")[2]),
            prediction_id=prediction.request.prediction_id,
            score=prediction.score,
            scores=dict(prediction.scores),
        )
        for prediction in predictions
    ]


def _ranked_classes(prediction: Prediction) -> list[RankedItem]:
    names = prediction.classes or ()
    scores: Sequence[float | None] = prediction.class_scores or [None] * len(names)
    prediction_id = prediction.request.prediction_id
    return [
        RankedItem(item=name, index=None, prediction_id=prediction_id, score=score, scores={})
        for name, score in zip(names, scores, strict=True)
    ]


def _rank_response(predictions: Sequence[Prediction], items: list[RankedItem]) -> RankResponse:
    first = predictions[0]
    return RankResponse(
        ranking=items,
        release=first.release,
        arm=first.arm,
        fallback=first.fallback,
        reason=first.reason,
        source=first.source,
    )
