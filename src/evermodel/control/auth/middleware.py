"""The door of the control service: nobody comes in whom a rule doesn't let in, and every answer leaves with its headers.

Programs show a token with each request; browsers a session, and only for pages, so that no other site's form reaches the
API. In `local` there are no tokens: who reaches 127.0.0.1 is the local user, and the Host header has to say so too, or
a name that another site points at 127.0.0.1 would do (DNS rebinding).
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evermodel.control.auth.session import SESSION, VISIT, Sessions, new_visit
from evermodel.credentials import Caller, Refusal, Role, Tokens, admit, refused

LOCAL_USER = Caller("local user", "admin")
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
OPEN = frozenset({"/healthz", "/readyz", "/sign-in", "/style.css", "/icon.svg"})
PROGRAMS = ("/api/", "/metrics")
MAX_BYTES = 4 * 1024 * 1024
READERS: frozenset[Role] = frozenset({"admin", "viewer"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def roles(path: str, method: str) -> frozenset[Role]:
    """Who may use a path: what reads is a viewer's too, what changes anything an administrator's."""
    if path == "/metrics":
        return frozenset({"admin", "viewer", "service"})
    if path == "/api/v1/alertmanager":
        return frozenset({"admin", "alertmanager"})
    if method in ("GET", "HEAD") or path == "/sign-out":
        return READERS
    return frozenset({"admin"})


class AuthMiddleware:
    """ASGI middleware. Who came in is `scope["state"]["caller"]`; the browser's cookies are beside it."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens | None, sessions: Sessions) -> None:
        self._app, self._tokens, self._sessions = app, tokens, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if "server" in headers:
                    del headers["server"]
            await send(message)

        headers = Headers(scope=scope)
        cookies = _cookies(headers)
        state = scope.setdefault("state", {})
        state.update(caller=None, session=cookies.get(SESSION, ""), visit=cookies.get(VISIT) or new_visit())
        state["new_visit"] = not cookies.get(VISIT)
        refusal = self._elsewhere(headers) or self._known(scope, headers) or self._malformed(scope, headers)
        if refusal is None:
            await self._app(scope, receive, dressed)
        else:
            await self._turn_away(refusal, scope, receive, dressed)

    def _elsewhere(self, headers: Headers) -> tuple[int, str, str] | None:
        """Without tokens only this machine is answered."""
        if self._tokens is None and _host(headers.get("host", "")) not in LOCAL_HOSTS:
            return 421, "wrong_host", "in the local profile this answers to 127.0.0.1 and localhost only"
        return None

    def _malformed(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """What is wrong with a request of somebody who may ask: to others, nothing is said but who they aren't."""
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "cross_site", "another site's page sent this"
        length = headers.get("content-length", "")
        if not length.isdigit():
            return 411, "length_required", "send the body with its Content-Length"
        if int(length) > MAX_BYTES:
            return 413, "too_large", f"a body has at most {MAX_BYTES} bytes"
        if scope["path"].startswith("/api/") and headers.get("content-type", "").split(";")[0] != "application/json":
            return 415, "not_json", "send JSON, as Content-Type: application/json"
        return None

    def _known(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        """Who it is, into the scope; why not, where it isn't anybody who may."""
        path, answer = scope["path"], LOCAL_USER if self._tokens is None else self._asked(scope, headers)
        if isinstance(answer, Refusal):
            if path in OPEN:
                return None
            return answer.status, answer.code, answer.reason
        scope["state"]["caller"] = answer
        return None

    def _asked(self, scope: Scope, headers: Headers) -> Caller | Refusal:
        assert self._tokens is not None
        path, allowed = scope["path"], roles(scope["path"], scope["method"])
        if path.startswith(PROGRAMS):
            sent = headers.getlist("authorization")
            return admit(self._tokens, sent[0] if len(sent) == 1 else None, allowed)
        caller = self._sessions.read(scope["state"]["session"], self._tokens)
        if caller is None:
            return Refusal(401, "unauthenticated", "sign in first")
        return refused(caller, allowed) or caller

    async def _turn_away(self, why: tuple[int, str, str], scope: Scope, receive: Receive, send: Send) -> None:
        status, code, reason = why
        if scope["path"].startswith(PROGRAMS) or "text/html" not in Headers(scope=scope).get("accept", ""):
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await JSONResponse({"code": code, "field": None, "reason": reason}, status, headers)(scope, receive, send)
            return
        scope["state"]["refusal"] = why
        await self._app({**scope, "path": "/refused", "raw_path": b"/refused", "method": "GET"}, receive, send)


def _host(header: str) -> str:
    """The name of a Host header, without its port."""
    if header.startswith("["):
        return header[: header.find("]") + 1]
    return header.partition(":")[0].lower()


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}
