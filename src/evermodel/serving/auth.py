"""Access to serving by bearer tokens: which role may use which path."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from evermodel.credentials import Refusal, Role, Tokens, authorize
from evermodel.serving.schemas import Problem, problem_response

#: Paths that need no token: they only say that this process answers, and whether it is ready.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})


class TokenMiddleware:
    """Rejects requests without a valid token, also for unknown paths. Does nothing if `tokens` is None."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens | None) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            problem = Problem(code=refusal.code, field=None, reason=refusal.reason)
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await problem_response(refusal.status, problem, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        if self._tokens is None or scope["path"] in OPEN_PATHS:
            return None
        answer = authorize(self._tokens, authorization(scope), _roles(scope["path"]))
        return answer if isinstance(answer, Refusal) else None


def authorization(scope: Scope) -> str | None:
    """The request's `Authorization` header; None if there isn't exactly one."""
    headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    return headers[0] if len(headers) == 1 else None


def _roles(path: str) -> frozenset[Role]:
    """The roles that may use a path: callers get predictions, Prometheus and people get metrics."""
    if path == "/metrics":
        return frozenset({"viewer", "service", "admin"})
    return frozenset({"caller", "admin"})
