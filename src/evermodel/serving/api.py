"""The HTTP face: one FastAPI app with routes of its own for each use case, so that OpenAPI says what each one takes.

    POST /v1/{use_case}/predict, POST /v1/{use_case}/rank, GET /healthz, /readyz, /metrics

Whatever is wrong with a request is answered as a `Problem` (code, field, reason), whatever is wrong with us as an opaque
500: never a trace. See `schemas` for the bodies, `desk` for how an answer comes about.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evermodel.credentials import Refusal, Role, Tokens, admit
from evermodel.errors import ServingError, nearest
from evermodel.serving.answers import ClassSelection, Prediction, questions_of
from evermodel.serving.schemas import (
    PredictedRow,
    PredictResponse,
    Problem,
    RankedItem,
    RankResponse,
    is_rankable,
    parse_row,
    predict_request,
    problem,
    rank_request,
    ranks_classes,
    row_model,
    row_names,
    values_of,
)
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase

MAX_BYTES = 8 * 1024 * 1024
STATUS = {"overloaded": 429, "unknown_use_case": 404, "not_rankable": 404, "not_ready": 503}
#: Open whatever tokens there are: they say that this process answers, and whether it is ready.
OPEN = frozenset({"/healthz", "/readyz"})
WORDS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "not_json"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The body can't be read",
        413: "The body is too large",
        422: "A field is missing, unknown or out of range",
        429: "Too many requests are waiting",
    }.items()
}
Ready = Callable[[], Awaitable[Mapping[str, Any]]]


def create_api(
    desk: PredictionService,
    *,
    ready: Ready,
    clock: Callable[[], datetime],
    simulated_time: bool = False,
    tokens: Tokens | None = None,
) -> FastAPI:
    """The app over a desk. `ready`: `ModelManager.status`, wherever that lives; `simulated_time`: a request may say `at`;
    `tokens`: who may call (None: everybody who can reach this)."""
    api = FastAPI(title="Evermodel", version="1", description="Predictions by id; see each use case's own routes.")
    api.add_middleware(TokenMiddleware, desk=desk, tokens=tokens)
    _add_errors(api, desk)
    _add_probes(api, desk, ready, tokens)
    for name, use_case in desk.use_cases.items():
        _add_predict(api, desk, name, use_case, clock, simulated_time)
        if is_rankable(use_case):
            _add_rank(api, desk, name, use_case, clock, simulated_time)

    @api.post("/v1/{use_case}/{verb}", include_in_schema=False)
    async def unknown(use_case: str, verb: str) -> None:
        if use_case not in desk.use_cases:
            why = f"no use case {use_case!r}; {nearest(use_case, desk.use_cases)}"
            raise ServingError("unknown_use_case", why, field="use_case")
        if verb == "rank":
            raise ServingError("not_rankable", f"{use_case} has no items or classes to rank; use predict", field="verb")
        raise HTTPException(404, f"no verb {verb!r}; {nearest(verb, ('predict', 'rank'))}")

    return api


class TokenMiddleware:
    """Turns away who has no token where one is needed, and bodies that are too large; counts and times every request
    of a use case."""

    def __init__(self, app: ASGIApp, *, desk: PredictionService, tokens: Tokens | None) -> None:
        self._app, self._desk, self._tokens = app, desk, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if (no := self._refusal(scope)) is not None:
                why = Problem(code=no.code, field=None, reason=no.reason)
                headers = {"WWW-Authenticate": "Bearer"} if no.status == 401 else None
                await _problem(no.status, why, headers)(scope, receive, watched)
            elif _length(scope) > MAX_BYTES:
                why = Problem(code="too_large", field=None, reason=f"a body has at most {MAX_BYTES} bytes")
                await JSONResponse(why.model_dump(), 413)(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            self._count(scope["path"], status, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """None: come in. Whatever isn't `OPEN` needs a token, a path that isn't there too."""
        if self._tokens is None or scope["path"] in OPEN:
            return None
        answer = admit(self._tokens, _authorization(scope), _roles(scope["path"]))
        return answer if isinstance(answer, Refusal) else None

    def _count(self, path: str, status: int, seconds: float) -> None:
        steps = path.strip("/").split("/")
        if (
            len(steps) == 3
            and steps[0] == "v1"
            and steps[1] in self._desk.use_cases
            and steps[2] in ("predict", "rank")
        ):
            self._desk.metrics.requests.labels(steps[1], steps[2], str(status)).inc()
            self._desk.metrics.seconds.labels(steps[1], steps[2]).observe(seconds)


def _roles(path: str) -> frozenset[Role]:
    """Who may use a path: predictions are the callers', figures are Prometheus' and people's."""
    if path == "/metrics":
        return frozenset({"viewer", "service", "admin"})
    return frozenset({"caller", "admin"})


def _authorization(scope: Scope) -> str | None:
    """The request's one `Authorization` header; of two, none is believed."""
    found = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    return found[0] if len(found) == 1 else None


def _length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _add_predict(
    api: FastAPI,
    desk: PredictionService,
    name: str,
    use_case: UseCase,
    clock: Callable[[], datetime],
    simulated_time: bool,
) -> None:
    body: Any = predict_request(use_case, simulated_time=simulated_time)

    async def predict(request: Any) -> PredictResponse:
        rows = [values_of(use_case, row) for row in request.rows]
        at, request_id = _said(request, clock)
        questions = questions_of(use_case, rows, request_id=request_id, at=at)
        answers = await desk.answer(name, questions, ClassSelection(None, 10))
        return PredictResponse(answers=[_predicted(answer) for answer in answers])

    predict.__annotations__["request"] = body  # a model made at run time has no name to be annotated by
    summary = f"Answer rows of {name}"
    api.post(f"/v1/{name}/predict", responses=ERRORS, summary=summary, operation_id=f"{name}_predict")(predict)


def _add_rank(
    api: FastAPI,
    desk: PredictionService,
    name: str,
    use_case: UseCase,
    clock: Callable[[], datetime],
    simulated_time: bool,
) -> None:
    body: Any = rank_request(use_case, simulated_time=simulated_time)
    row = row_model(use_case)

    async def rank_classes(request: Any) -> RankResponse:
        at, request_id = _said(request, clock)
        questions = questions_of(use_case, [values_of(use_case, request.row)], request_id=request_id, at=at)
        wanted = None if request.candidates is None else tuple(request.candidates)
        answer = (await desk.answer(name, questions, ClassSelection(wanted, request.k)))[0]
        return _ranking([answer], _ranked_classes(answer))

    async def rank_items(request: Any) -> RankResponse:
        context = _given(request.context) if request.context else {}
        rows = []
        for i, candidate in enumerate(request.candidates):
            rows.append(parse_row(use_case, row, {**context, **_given(candidate)}, where=f"candidates[{i}]"))
        at, request_id = _said(request, clock)
        questions = questions_of(use_case, rows, request_id=request_id, at=at)
        answers = await desk.answer(name, questions, ClassSelection(None, None), rank=True)
        return _ranking(answers, _ranked_items(use_case, answers)[: request.k])

    rank = rank_classes if ranks_classes(use_case) else rank_items
    rank.__annotations__["request"] = body
    summary = f"Order the candidates of {name}, best first"
    api.post(f"/v1/{name}/rank", responses=ERRORS, summary=summary, operation_id=f"{name}_rank")(rank)


def _add_probes(api: FastAPI, desk: PredictionService, ready: Ready, tokens: Tokens | None) -> None:
    @api.get("/healthz", summary="Whether this process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="Which releases are live", responses={503: {"description": "A use case has no model"}})
    async def readyz(request: Request, response: Response) -> dict[str, Any]:
        try:
            status = dict(await ready())
        except Exception:  # the models' process is gone: that is the answer
            status = {"ready": False, "error": "the models don't answer", "use_cases": {}}
        response.status_code = 200 if status["ready"] else 503
        known = tokens is None or tokens.check(_authorization(request.scope)) is not None
        return status if known else {"ready": status["ready"]}

    @api.get("/metrics", summary="Figures of this process", response_class=Response)
    async def metrics() -> Response:
        return Response(desk.figures(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(api: FastAPI, desk: PredictionService) -> None:
    @api.exception_handler(ServingError)
    async def on_serving_error(_request: Request, error: ServingError) -> JSONResponse:
        status = STATUS.get(error.code, 422)
        headers = {"Retry-After": "1"} if status == 429 else None
        return _problem(status, Problem(code=error.code, field=error.field, reason=error.reason), headers)

    @api.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _problem(
                400, Problem(code="invalid_json", field=None, reason=f"the body is no JSON: {first['ctx']['error']}")
            )
        steps = request.url.path.split("/")
        use_case = desk.use_cases.get(steps[2]) if len(steps) > 2 else None
        inside = any(step in ("rows", "row", "context", "candidates") for step in first["loc"][:-1])
        return _problem(422, problem(first, valid=row_names(use_case) if use_case and inside else ()))

    @api.exception_handler(HTTPException)
    async def on_http(_request: Request, error: HTTPException) -> JSONResponse:
        code = WORDS.get(error.status_code, "bad_request")
        return _problem(error.status_code, Problem(code=code, field=None, reason=str(error.detail)), error.headers)

    @api.exception_handler(Exception)
    async def on_fault(_request: Request, _error: Exception) -> JSONResponse:
        return _problem(500, Problem(code="internal", field=None, reason="the server failed; its log says of what"))


def _problem(status: int, why: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(why.model_dump(), status, dict(headers) if headers else None)


def _said(request: Any, clock: Callable[[], datetime]) -> tuple[datetime, str]:
    """The present and the request's id: what the request says, else the clock's and a new one."""
    return getattr(request, "at", None) or clock(), request.request_id or uuid4().hex


def _given(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(by_alias=True, exclude_unset=True)


def _predicted(answer: Prediction) -> PredictedRow:
    return PredictedRow(
        prediction_id=answer.question.prediction_id,
        score=answer.score,
        scores=dict(answer.scores),
        classes=None if answer.classes is None else list(answer.classes),
        release=answer.release,
        arm=answer.arm,
        fallback=answer.fallback,
        reason=answer.reason,
        source=answer.source,
    )


def _ranked_items(use_case: UseCase, answers: Sequence[Prediction]) -> list[RankedItem]:
    items = []
    for answer in answers:
        ident = answer.question.prediction_id
        item = answer.question.values.get(use_case.predict.item or "")
        index = int(ident.rpartition(":")[2])
        items.append(
            RankedItem(item=item, index=index, prediction_id=ident, score=answer.score, scores=dict(answer.scores))
        )
    return items


def _ranked_classes(answer: Prediction) -> list[RankedItem]:
    names = answer.classes or ()
    scores: Sequence[float | None] = answer.class_scores or [None] * len(names)
    ident = answer.question.prediction_id
    return [
        RankedItem(item=name, index=None, prediction_id=ident, score=score, scores={})
        for name, score in zip(names, scores, strict=True)
    ]


def _ranking(answers: Sequence[Prediction], items: list[RankedItem]) -> RankResponse:
    first = answers[0]
    return RankResponse(
        ranking=items,
        release=first.release,
        arm=first.arm,
        fallback=first.fallback,
        reason=first.reason,
        source=first.source,
    )
