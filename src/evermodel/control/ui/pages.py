"""The pages: overview, one use case, and the confirmation of each action. They work without scripts.

A button leads to a page that says what will happen and asks for a reason; only that page's form starts the action. The
next page reports the result. Nothing on a page comes from another server.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from evermodel.control import actions, queries
from evermodel.control.actions import RunLauncher
from evermodel.control.auth.session import Sessions
from evermodel.control.service import Service
from evermodel.control.ui import chart
from evermodel.control.ui.renderer import Form, PageRenderer, read_form
from evermodel.control.ui.sign_in import add_sign_in
from evermodel.errors import ConflictError, EvermodelError
from evermodel.parsing import parse_windows

MAX_REASON_LENGTH = 500
DONE = {
    "retrain": "The run is started. It appears below when its first step begins.",
    "promote": "The release is champion now. Serving follows within seconds.",
    "rollback": "The previous champion is back. Serving follows within seconds.",
}


def add_pages(app: FastAPI, service: Service, launcher: RunLauncher, sessions: Sessions) -> PageRenderer:
    """Adds the pages' routes to the app."""
    renderer = PageRenderer(service, sessions)
    add_sign_in(app, service, sessions, renderer)

    @app.get("/", include_in_schema=False)
    def overview(request: Request) -> Response:
        return renderer.render(request, "overview.html", rows=queries.overview(service))

    @app.get("/use-cases/{name}", include_in_schema=False)
    def use_case(name: str, request: Request, done: str = "") -> Response:
        shown = queries.use_case_page(service, name)
        return renderer.render(
            request,
            "use_case.html",
            name=name,
            chart=chart.lay_out(shown["reports"], shown["promotions"], shown["alerts"]),
            busy=launcher.is_busy(name),
            done=DONE.get(done, ""),
            **shown,
        )

    @app.get("/use-cases/{name}/{verb}", include_in_schema=False)
    def confirm(name: str, verb: str, request: Request) -> Response:
        if verb not in ACTIONS:
            return renderer.problem(request, 404, "Page not found", f"There is no page at {request.url.path}.")
        return _confirm(renderer, service, request, name, verb, {}, "", 200)

    @app.post("/use-cases/{name}/{verb}", include_in_schema=False)
    def act(name: str, verb: str, request: Request, form: Form = Depends(read_form)) -> Response:
        if verb not in ACTIONS:
            return renderer.problem(request, 404, "Page not found", f"There is no page at {request.url.path}.")
        if not renderer.is_own_form(request, form):
            return renderer.reject_form(request)
        reason = form.get("reason", "")
        if not reason or len(reason) > MAX_REASON_LENGTH:
            error = f"Give a reason of at most {MAX_REASON_LENGTH} characters. The ledger keeps it."
            return _confirm(renderer, service, request, name, verb, form, error, 422)
        try:
            ACTIONS[verb](service, launcher, name, request.state.caller.name, reason, form)
        except EvermodelError as error:
            return _confirm(renderer, service, request, name, verb, form, str(error), 409)
        return RedirectResponse(f"/use-cases/{name}?done={verb}", 303)

    return renderer


def _confirm(
    renderer: PageRenderer,
    service: Service,
    request: Request,
    name: str,
    verb: str,
    form: Form,
    error: str,
    status: int,
) -> HTMLResponse:
    return renderer.render(
        request,
        "confirm.html",
        status,
        name=name,
        verb=verb,
        form=form,
        error=error,
        max_length=MAX_REASON_LENGTH,
        **queries.use_case_page(service, name),
    )


def _retrain(service: Service, launcher: RunLauncher, name: str, actor: str, reason: str, form: Form) -> None:
    windows = parse_windows(form.get("windows", ""))
    actions.retrain(service, launcher, name, actor=actor, reason=reason, windows=windows, mode=form.get("mode", ""))


def _promote(service: Service, _launcher: RunLauncher, name: str, actor: str, reason: str, form: Form) -> None:
    if not form.get("run"):
        raise ConflictError("Choose the release to promote.")
    override = form.get("override") == "yes"
    actions.promote(service, name, form["run"], actor=actor, reason=reason, override=override)


def _rollback(service: Service, _launcher: RunLauncher, name: str, actor: str, reason: str, form: Form) -> None:
    expected = form.get("expected_champion") or None
    actions.rollback(service, name, actor=actor, reason=reason, expected_champion=expected)


ACTIONS: dict[str, Callable[[Service, RunLauncher, str, str, str, Form], None]] = {
    "retrain": _retrain,
    "promote": _promote,
    "rollback": _rollback,
}
