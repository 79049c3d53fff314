"""The control service as one ASGI app: API, pages, metrics and probes behind `AuthMiddleware`, and its error answers."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from evermodel.control.actions import RunLauncher
from evermodel.control.api.metrics import render_metrics
from evermodel.control.api.routes import add_api
from evermodel.control.auth.middleware import PROGRAM_PATHS, SECURITY_HEADERS, AuthMiddleware
from evermodel.control.auth.session import Sessions
from evermodel.control.service import RolloutController, Service, UnknownUseCaseError
from evermodel.control.ui.pages import add_pages
from evermodel.control.ui.renderer import PageRenderer
from evermodel.errors import ConflictError, EvermodelError, GateError, InputError, IntegrityError

#: The first class that fits an error gives the status, the code, and the title of the page.
ERRORS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (UnknownUseCaseError, 404, "unknown_use_case", "Unknown use case"),
    (GateError, 409, "gate_not_passed", "Gate not passed"),
    (ConflictError, 409, "conflict", "Conflict"),
    (IntegrityError, 409, "not_whole", "Stored files are damaged"),
    (InputError, 422, "invalid", "Invalid input"),
    (EvermodelError, 422, "refused", "Request refused"),
    (SQLAlchemyError, 503, "ledger_down", "The ledger does not answer"),
)
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
log = logging.getLogger(__name__)


def create_control(
    service: Service, *, sessions: Sessions, launcher: RunLauncher, rollout: RolloutController | None = None
) -> FastAPI:
    """The app. Without `service.tokens` every caller is the local user: listen on 127.0.0.1 only."""
    app = FastAPI(
        title="Evermodel control", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    app.add_middleware(AuthMiddleware, tokens=service.tokens, sessions=sessions)
    _add_probes(app, service)
    _add_metrics(app, service, rollout)
    add_api(app, service, launcher, rollout)
    renderer = add_pages(app, service, launcher, sessions)
    _add_errors(app, renderer)
    return app


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    def readyz(response: Response) -> dict[str, bool]:
        try:
            service.ledger.lease("readyz")
        except Exception:  # any failure means that the service cannot work
            response.status_code = 503
            return {"ready": False}
        return {"ready": True}


def _add_metrics(app: FastAPI, service: Service, rollout: RolloutController | None) -> None:
    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(render_metrics(service, rollout), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI, renderer: PageRenderer) -> None:
    def answer(
        request: Request, status: int, code: str, title: str, reason: str, field: str | None = None, **options: Any
    ) -> Response:
        if request.url.path.startswith(PROGRAM_PATHS) or "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"code": code, "field": field, "reason": reason}, status, **options)
        return renderer.problem(request, status, title, reason)

    def answer_known(request: Request, error: Exception) -> Response:
        for kind, status, code, title in ERRORS:
            if isinstance(error, kind):
                if kind is not SQLAlchemyError:
                    return answer(request, status, code, title, str(error))
                log.warning("the ledger does not answer: %s", type(error).__name__)
                return answer(request, status, code, title, "try again in a moment", headers={"Retry-After": "5"})
        raise error

    async def answer_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        code = "invalid_json" if first["type"] == "json_invalid" else "invalid"
        return answer(request, 422, code, "Invalid input", first["msg"], field)

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status, code = error.status_code, HTTP_CODES.get(error.status_code, "bad_request")
        reason = "Check the path and the method."
        return answer(request, status, code, str(error.detail), reason, headers=error.headers)

    async def answer_internal(request: Request, error: Exception) -> Response:
        log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        response = answer(request, 500, "internal", "Internal error", "the service failed; its log has the cause")
        response.headers.update(SECURITY_HEADERS)  # this answer bypasses the middleware
        return response

    for kind in (EvermodelError, SQLAlchemyError):
        app.add_exception_handler(kind, answer_known)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_internal)
