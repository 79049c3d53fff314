"""The sign-in page, sign-out, the page for rejected requests, and the two assets that they need."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from evermodel.control.auth.middleware import READERS
from evermodel.control.auth.session import SESSION_COOKIE, SESSION_LENGTH, Sessions
from evermodel.control.service import Service
from evermodel.control.ui.renderer import Form, PageRenderer, is_secure, read_form


def add_sign_in(app: FastAPI, service: Service, sessions: Sessions, renderer: PageRenderer) -> None:
    """Adds the routes to the app."""

    @app.get("/style.css", include_in_schema=False)
    def style() -> Response:
        return renderer.style()

    @app.get("/icon.svg", include_in_schema=False)
    def icon() -> Response:
        return renderer.icon()

    @app.get("/sign-in", include_in_schema=False)
    def show_sign_in(request: Request) -> Response:
        if service.tokens is None or request.state.caller is not None:
            return RedirectResponse("/", 303)
        return renderer.render(request, "sign_in.html", error="")

    @app.post("/sign-in", include_in_schema=False)
    def sign_in(request: Request, form: Form = Depends(read_form)) -> Response:
        if service.tokens is None:
            return RedirectResponse("/", 303)
        if not renderer.is_own_form(request, form):
            return renderer.reject_form(request)
        caller = service.tokens.authenticate(f"Bearer {form.get('token', '')}")
        if caller is None:
            return renderer.render(request, "sign_in.html", 401, error="This token is unknown.")
        if caller.role not in READERS:
            error = f"A token with the role {caller.role} cannot sign in here."
            return renderer.render(request, "sign_in.html", 403, error=error)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            SESSION_COOKIE,
            sessions.open(caller),
            max_age=int(SESSION_LENGTH.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=is_secure(request),
        )
        return answer

    @app.post("/sign-out", include_in_schema=False)
    def sign_out(request: Request, form: Form = Depends(read_form)) -> Response:
        if not renderer.is_own_form(request, form):
            return renderer.reject_form(request)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict", secure=is_secure(request))
        return answer

    @app.get("/refused", include_in_schema=False)
    def show_rejection(request: Request) -> Response:
        """The middleware's answer to a browser whose request it rejects."""
        status, code, reason = getattr(request.state, "rejection", (404, "not_found", "This page does not exist."))
        if code == "unauthenticated":
            return renderer.render(request, "sign_in.html", 401, error="")
        return renderer.problem(request, status, "Not allowed" if status == 403 else "Page not found", reason)
