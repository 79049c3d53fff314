"""The web page: rendered here, complete without scripts, and nothing in it comes from another server.

A button leads to a page that says what will happen and asks why; only that page's form does it. What is done says so on
the next page. See `session` for who may, and `views` for what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from evermodel.control import actions
from evermodel.control.actions import Runs
from evermodel.control.auth.session import LONGEST, SESSION, VISIT, Sessions
from evermodel.control.service import Service
from evermodel.control.ui import chart, views
from evermodel.errors import ConflictError, EvermodelError
from evermodel.parsing import parse_windows
from evermodel.records import Release

Form = dict[str, str]
VERBS = ("retrain", "promote", "rollback")
LONGEST_REASON = 500
MIDNIGHT, SECONDS = re.compile(r"(?<=\d)T00:00:00Z"), re.compile(r"(?<=\d)T(\d\d:\d\d):\d\dZ")
DONE = {
    "retrain": "The run is started. It appears below when its first step has begun.",
    "promote": "The release is champion now. Serving follows within seconds.",
    "rollback": "The previous champion is back. Serving follows within seconds.",
}


async def form(request: Request) -> Form:
    """The fields of a form as texts."""
    body = (await request.body()).decode("utf-8", errors="replace")
    return {name: values[-1].strip() for name, values in parse_qs(body, max_num_fields=50).items()}


class Pages:
    """Renders templates with what every page has: who looks, and what its forms carry."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self._service, self._sessions = service, sessions
        self._templates = Environment(
            loader=PackageLoader("evermodel.control"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(when=_when, figure=_figure, words=_words, short=_short, plain=_plain)

    def render(self, request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        state = request.state
        visit, session = state.visit, state.session
        shared = {
            "caller": state.caller,
            "is_local": self._service.tokens is None,
            "may_act": state.caller is not None and state.caller.role == "admin",
            "csrf": self._sessions.csrf(visit, session),
            "now": self._service.clock(),
        }
        page = HTMLResponse(self._templates.get_template(template).render(**shared, **values), status)
        if state.new_visit:
            page.set_cookie(VISIT, visit, httponly=True, samesite="strict", secure=is_secure(request))
        return page

    def asset(self, name: str, kind: str) -> Response:
        text = self._templates.get_template(name).render()
        return Response(text, media_type=kind, headers={"Cache-Control": "max-age=300"})

    def is_ours(self, request: Request, given: Form) -> bool:
        """Whether a form comes from a page that this browser was given."""
        return self._sessions.is_csrf(given.get("csrf", ""), request.state.visit, request.state.session)

    def foreign(self, request: Request) -> HTMLResponse:
        why = "The form doesn't belong to this session. Nothing was changed; go back, load the page anew and try again."
        return self.problem(request, 403, "Not this way", why)

    def problem(self, request: Request, status: int, title: str, reason: str) -> HTMLResponse:
        return self.render(request, "problem.html", status, title=title, reason=reason)


def add_pages(app: FastAPI, service: Service, runs: Runs, sessions: Sessions) -> Pages:
    """The routes."""
    pages = Pages(service, sessions)
    _add_signing(app, service, sessions, pages)

    @app.get("/", include_in_schema=False)
    def overview(request: Request) -> Response:
        return pages.render(request, "overview.html", rows=views.overview(service))

    @app.get("/use-cases/{name}", include_in_schema=False)
    def use_case(name: str, request: Request, done: str = "") -> Response:
        shown = views.page(service, name)
        picture = chart.draw(shown["windows"], shown["promotions"], shown["alerts"])
        busy = runs.is_busy(name)
        return pages.render(
            request, "use_case.html", name=name, picture=picture, busy=busy, done=DONE.get(done, ""), **shown
        )

    @app.get("/use-cases/{name}/{verb}", include_in_schema=False)
    def confirm(name: str, verb: str, request: Request) -> Response:
        if verb not in VERBS:
            return pages.problem(request, 404, "No such page", f"There is nothing at {request.url.path}.")
        return _confirm(pages, service, request, name, verb, {}, "", 200)

    @app.post("/use-cases/{name}/{verb}", include_in_schema=False)
    def act(name: str, verb: str, request: Request, given: Form = Depends(form)) -> Response:
        if verb not in VERBS:
            return pages.problem(request, 404, "No such page", f"There is nothing at {request.url.path}.")
        if not pages.is_ours(request, given):
            return pages.foreign(request)
        reason = given.get("reason", "")
        if not reason or len(reason) > LONGEST_REASON:
            why = f"Say why, in at most {LONGEST_REASON} characters: the ledger keeps it."
            return _confirm(pages, service, request, name, verb, given, why, 422)
        try:
            ACTS[verb](service, runs, name, request.state.caller.name, reason, given)
        except EvermodelError as error:
            return _confirm(pages, service, request, name, verb, given, str(error), 409)
        return RedirectResponse(f"/use-cases/{name}?done={verb}", 303)

    return pages


def _confirm(
    pages: Pages, service: Service, request: Request, name: str, verb: str, given: Form, error: str, status: int
) -> HTMLResponse:
    shown = views.page(service, name)
    return pages.render(
        request, "confirm.html", status, name=name, verb=verb, given=given, error=error, longest=LONGEST_REASON, **shown
    )


def _retrain(service: Service, runs: Runs, name: str, actor: str, reason: str, given: Form) -> None:
    windows = parse_windows(given.get("windows", ""))
    actions.retrain(service, runs, name, actor=actor, reason=reason, windows=windows, mode=given.get("mode", ""))


def _promote(service: Service, _runs: Runs, name: str, actor: str, reason: str, given: Form) -> None:
    if not given.get("run"):
        raise ConflictError("Choose which run's release is to be champion.")
    override = given.get("override") == "yes"
    actions.promote(service, name, given["run"], actor=actor, reason=reason, override=override)


def _rollback(service: Service, _runs: Runs, name: str, actor: str, reason: str, given: Form) -> None:
    actions.rollback(service, name, actor=actor, reason=reason, leave=given.get("leave") or None)


ACTS: dict[str, Callable[[Service, Runs, str, str, str, Form], None]] = {
    "retrain": _retrain,
    "promote": _promote,
    "rollback": _rollback,
}


def _add_signing(app: FastAPI, service: Service, sessions: Sessions, pages: Pages) -> None:
    @app.get("/style.css", include_in_schema=False)
    def style() -> Response:
        return pages.asset("style.css", "text/css")

    @app.get("/icon.svg", include_in_schema=False)
    def icon() -> Response:
        return pages.asset("icon.svg", "image/svg+xml")

    @app.get("/sign-in", include_in_schema=False)
    def show_sign_in(request: Request) -> Response:
        if service.tokens is None or request.state.caller is not None:
            return RedirectResponse("/", 303)
        return pages.render(request, "sign_in.html", error="")

    @app.post("/sign-in", include_in_schema=False)
    def sign_in(request: Request, given: Form = Depends(form)) -> Response:
        if service.tokens is None:
            return RedirectResponse("/", 303)
        if not pages.is_ours(request, given):
            return pages.foreign(request)
        caller = service.tokens.check(f"Bearer {given.get('token', '')}")
        if caller is None or caller.role not in ("admin", "viewer"):
            why = (
                "This token isn't known." if caller is None else f"A token of role {caller.role} doesn't sign in here."
            )
            return pages.render(request, "sign_in.html", 401 if caller is None else 403, error=why)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            SESSION,
            sessions.open(caller),
            max_age=int(LONGEST.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=is_secure(request),
        )
        return answer

    @app.post("/sign-out", include_in_schema=False)
    def sign_out(request: Request, given: Form = Depends(form)) -> Response:
        if not pages.is_ours(request, given):
            return pages.foreign(request)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(SESSION, httponly=True, samesite="strict", secure=is_secure(request))
        return answer

    @app.get("/refused", include_in_schema=False)
    def refused(request: Request) -> Response:
        """Where the door sends a browser that it doesn't let in."""
        status, code, reason = getattr(request.state, "refusal", (404, "not_found", "There is nothing here."))
        if code == "unauthenticated":
            return pages.render(request, "sign_in.html", 401, error="")
        return pages.problem(request, status, "Not allowed" if status == 403 else "No such page", reason)


def is_secure(request: Request) -> bool:
    """Whether the browser came by https; a proxy's word only makes cookies stricter."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:,.4g}"


def _plain(text: str) -> str:
    """A reason with its times as people write them: midnights as dates, the rest to the minute."""
    return SECONDS.sub(" \\1", MIDNIGHT.sub("", text)).replace("..", " to ")


def _words(text: str) -> str:
    return text.replace("_", " ")


def _short(release: Release | str | None) -> str:
    ident = release.id if isinstance(release, Release) else release
    return ident[:12] if ident else "none"
