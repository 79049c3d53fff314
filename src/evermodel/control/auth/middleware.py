"""Access rules of the control service: rejects requests that no rule allows, and adds security headers to every answer.

Programs send a token with each request. Browsers send a session cookie, which opens pages only, so that no other site's
form reaches the API. The local profile has no tokens: whoever reaches 127.0.0.1 is the local user. The Host header must
name this machine, too, because another site could point its own name at 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evermodel.control.auth.session import BROWSER_COOKIE, SESSION_COOKIE, Sessions, new_browser_id
from evermodel.credentials import Caller, Refusal, Role, Tokens, authorize, check_role

Rejection = tuple[int, str, str]  # status, code, reason

LOCAL_USER = Caller("local user", "admin")
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/sign-in", "/style.css", "/icon.svg"})
PROGRAM_PATHS = ("/api/", "/metrics")
MAX_BYTES = 4 * 1024 * 1024
READERS: frozenset[Role] = frozenset({"admin", "viewer"})
SECURITY_HEADERS = {
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


def allowed_roles(path: str, method: str) -> frozenset[Role]:
    """The roles that may use a path: readers may read, only administrators may change anything."""
    if path == "/metrics":
        return frozenset({"admin", "viewer", "service"})
    if path == "/api/v1/alertmanager":
        return frozenset({"admin", "alertmanager"})
    if method in ("GET", "HEAD") or path == "/sign-out":
        return READERS
    return frozenset({"admin"})


class AuthMiddleware:
    """ASGI middleware. Sets `caller`, `session`, `browser_id` and `is_new_browser` in `scope["state"]`."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens | None, sessions: Sessions) -> None:
        self._app, self._tokens, self._sessions = app, tokens, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if "server" in headers:
                    del headers["server"]
            await send(message)

        headers = Headers(scope=scope)
        cookies = _read_cookies(headers)
        browser_id = cookies.get(BROWSER_COOKIE)
        scope.setdefault("state", {}).update(
            caller=None,
            session=cookies.get(SESSION_COOKIE, ""),
            browser_id=browser_id or new_browser_id(),
            is_new_browser=not browser_id,
        )
        rejection = self._check_host(headers) or self._check_caller(scope, headers) or self._check_body(scope, headers)
        if rejection is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await self._reject(rejection, scope, receive, send_with_headers)

    def _check_host(self, headers: Headers) -> Rejection | None:
        """Without tokens, rejects a Host header that does not name this machine."""
        if self._tokens is None and _host_name(headers.get("host", "")) not in LOCAL_HOSTS:
            return 421, "wrong_host", "the local profile answers to 127.0.0.1 and localhost only"
        return None

    def _check_caller(self, scope: Scope, headers: Headers) -> Rejection | None:
        """Sets the caller in the scope, or rejects a caller who may not do this."""
        caller = LOCAL_USER if self._tokens is None else self._authorize(self._tokens, scope, headers)
        if isinstance(caller, Refusal):
            if scope["path"] in OPEN_PATHS:
                return None
            return caller.status, caller.code, caller.reason
        scope["state"]["caller"] = caller
        return None

    def _authorize(self, tokens: Tokens, scope: Scope, headers: Headers) -> Caller | Refusal:
        path, roles = scope["path"], allowed_roles(scope["path"], scope["method"])
        if path.startswith(PROGRAM_PATHS):
            sent = headers.getlist("authorization")
            return authorize(tokens, sent[0] if len(sent) == 1 else None, roles)
        caller = self._sessions.read(scope["state"]["session"], tokens)
        if caller is None:
            return Refusal(401, "unauthenticated", "sign in first")
        return check_role(caller, roles) or caller

    def _check_body(self, scope: Scope, headers: Headers) -> Rejection | None:
        """Rejects a malformed request. Runs after the caller's check: an unknown caller learns nothing but 401."""
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "cross_site", "another site's page sent this request"
        length = headers.get("content-length", "")
        if not length.isdigit():
            return 411, "length_required", "send the body with its Content-Length"
        if int(length) > MAX_BYTES:
            return 413, "too_large", f"a body has at most {MAX_BYTES} bytes"
        if scope["path"].startswith("/api/") and headers.get("content-type", "").split(";")[0] != "application/json":
            return 415, "not_json", "send JSON, as Content-Type: application/json"
        return None

    async def _reject(self, rejection: Rejection, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers programs with JSON and browsers with a page (`/refused`)."""
        status, code, reason = rejection
        if scope["path"].startswith(PROGRAM_PATHS) or "text/html" not in Headers(scope=scope).get("accept", ""):
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await JSONResponse({"code": code, "field": None, "reason": reason}, status, headers)(scope, receive, send)
            return
        scope["state"]["rejection"] = rejection
        await self._app({**scope, "path": "/refused", "raw_path": b"/refused", "method": "GET"}, receive, send)


def _host_name(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[: header.find("]") + 1]
    return header.partition(":")[0].lower()


def _read_cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}
