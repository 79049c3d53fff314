"""The control service as one ASGI app: API, page, metrics and probes behind one door, and errors that say what is wrong."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from evermodel.control.actions import Runs
from evermodel.control.api.metrics import Projection, figures
from evermodel.control.api.routes import add_api
from evermodel.control.auth.middleware import HEADERS, PROGRAMS, AuthMiddleware
from evermodel.control.auth.session import Sessions
from evermodel.control.service import Service, Unknown
from evermodel.control.ui.pages import Pages, add_pages
from evermodel.errors import ConflictError, EvermodelError, GateError, InputError, IntegrityError

#: By class, the first that fits: status, code, and a title for a page.
ERRORS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (Unknown, 404, "unknown_use_case", "No such use case"),
    (GateError, 409, "gate_not_passed", "The gate isn't passed"),
    (ConflictError, 409, "conflict", "Not as it was"),
    (IntegrityError, 409, "not_whole", "Not whole"),
    (InputError, 422, "invalid", "Not valid"),
    (EvermodelError, 422, "refused", "Refused"),
    (SQLAlchemyError, 503, "ledger_down", "The ledger doesn't answer"),
)
WORDS = {404: "not_found", 405: "method_not_allowed"}
log = logging.getLogger(__name__)


def create_control(
    service: Service, *, sessions: Sessions, runs: Runs, projection: Projection | None = None
) -> FastAPI:
    """The app. Without `service.tokens` it is the local user's, and must listen on 127.0.0.1 only."""
    app = FastAPI(
        title="Evermodel control", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    app.add_middleware(AuthMiddleware, tokens=service.tokens, sessions=sessions)
    _add_probes(app, service, projection)
    add_api(app, service, runs, projection)
    pages = add_pages(app, service, runs, sessions)
    _add_errors(app, pages)
    return app


def _add_probes(app: FastAPI, service: Service, projection: Projection | None) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    def readyz(response: Response) -> dict[str, bool]:
        try:
            service.ledger.lease("readyz")
        except Exception:  # whatever it is: this can't do its work
            response.status_code = 503
            return {"ready": False}
        return {"ready": True}

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(figures(service, projection), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI, pages: Pages) -> None:
    def say(
        request: Request, status: int, code: str, title: str, reason: str, field: str | None = None, **more: Any
    ) -> Response:
        if request.url.path.startswith(PROGRAMS) or "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"code": code, "field": field, "reason": reason}, status, **more)
        return pages.problem(request, status, title, reason)

    def on_ours(request: Request, error: Exception) -> Response:
        for kind, status, code, title in ERRORS:
            if isinstance(error, kind):
                down = kind is SQLAlchemyError
                if down:
                    log.warning("the ledger doesn't answer: %s", type(error).__name__)
                reason = "try again in a moment" if down else str(error)
                return say(request, status, code, title, reason, headers={"Retry-After": "5"} if down else None)
        raise error

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or None
        code = "invalid_json" if first["type"] == "json_invalid" else "invalid"
        return say(request, 422, code, "Not valid", first["msg"], where)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = WORDS.get(error.status_code, "bad_request")
        return say(
            request,
            error.status_code,
            code,
            str(error.detail),
            "There is nothing like this here.",
            headers=error.headers,
        )

    async def on_fault(request: Request, error: Exception) -> Response:
        log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        answer = say(request, 500, "internal", "Something failed here", "the service failed; its log says of what")
        answer.headers.update(HEADERS)  # this answer passes the door by
        return answer

    for kind in (EvermodelError, SQLAlchemyError):
        app.add_exception_handler(kind, on_ours)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_fault)
