"""ASGI middleware of the HTTP API: metrics of each request, and a limit on the size of a body."""

from __future__ import annotations

import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evermodel.serving.schemas import Problem, problem_response
from evermodel.serving.service import Metrics

MAX_BYTES = 8 * 1024 * 1024


class MetricsMiddleware:
    """Counts and times every request to a use case, with its status."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, use_cases: Collection[str]) -> None:
        self._app, self._metrics, self._use_cases = app, metrics, use_cases

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def keep_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, keep_status)
        finally:
            self._count(scope["path"], status, time.perf_counter() - start)

    def _count(self, path: str, status: int, seconds: float) -> None:
        steps = path.strip("/").split("/")
        if len(steps) == 3 and steps[0] == "v1" and steps[1] in self._use_cases and steps[2] in ("predict", "rank"):
            self._metrics.requests.labels(steps[1], steps[2], str(status)).inc()
            self._metrics.seconds.labels(steps[1], steps[2]).observe(seconds)


class BodySizeMiddleware:
    """Rejects bodies of more than `MAX_BYTES` by their declared length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _content_length(scope) > MAX_BYTES:
            problem = Problem(code="too_large", field=None, reason=f"a body has at most {MAX_BYTES} bytes")
            await problem_response(413, problem)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
