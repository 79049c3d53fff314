"""Renders the pages' templates: shared values, filters, cookies and CSRF checks."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from evermodel.control.auth.session import BROWSER_COOKIE, Sessions
from evermodel.control.service import Service
from evermodel.records import Release
from evermodel.reports.page import stylesheet

Form = dict[str, str]
MAX_FIELDS = 50
MISSING = "–"
_WHOLE_DAYS = re.compile(r"(\d{4}-\d\d-\d\d)T00:00:00Z\.\.(\d{4}-\d\d-\d\d)T00:00:00Z")
_MIDNIGHT = re.compile(r"(?<=\d)T00:00(?::00(?:\.0+)?)?(?:Z|\+00:00)")
_MINUTE = re.compile(r"(?<=\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)")


class PageRenderer:
    """Renders templates for a request. The templates are in `templates/`; they escape every value."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self._service, self._sessions = service, sessions
        self._templates = Environment(
            loader=PackageLoader("evermodel.control.ui"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            action=format_action,
            time=format_time,
            duration=format_duration,
            figure=format_figure,
            words=format_words,
            short=format_release,
            plain=format_reason,
        )

    def render(self, request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        state = request.state
        shared = {
            "caller": state.caller,
            "is_local": self._service.tokens is None,
            "may_act": state.caller is not None and state.caller.role == "admin",
            "csrf": self._sessions.csrf(state.browser_id, state.session),
            "now": self._service.clock(),
        }
        page = HTMLResponse(self._templates.get_template(template).render(**shared, **values), status)
        if state.is_new_browser:
            page.set_cookie(
                BROWSER_COOKIE, state.browser_id, httponly=True, samesite="strict", secure=is_secure(request)
            )
        return page

    def style(self) -> Response:
        """The style of all pages, followed by the rules that only this UI needs."""
        return self._asset(stylesheet() + "\n" + self._templates.get_template("style.css").render(), "text/css")

    def icon(self) -> Response:
        return self._asset(self._templates.get_template("icon.svg").render(), "image/svg+xml")

    @staticmethod
    def _asset(text: str, media_type: str) -> Response:
        return Response(text, media_type=media_type, headers={"Cache-Control": "max-age=300"})

    def is_own_form(self, request: Request, form: Form) -> bool:
        """Whether the form was rendered for this browser and session."""
        return self._sessions.is_csrf(form.get("csrf", ""), request.state.browser_id, request.state.session)

    def reject_form(self, request: Request) -> HTMLResponse:
        reason = "The form does not belong to this session. Nothing was changed. Load the page again and retry."
        return self.problem(request, 403, "Form rejected", reason)

    def problem(self, request: Request, status: int, title: str, reason: str) -> HTMLResponse:
        return self.render(request, "problem.html", status, title=title, reason=reason)


async def read_form(request: Request) -> Form:
    """The fields of a submitted form."""
    body = (await request.body()).decode("utf-8", errors="replace")
    return {name: values[-1].strip() for name, values in parse_qs(body, max_num_fields=MAX_FIELDS).items()}


def is_secure(request: Request) -> bool:
    """Whether the browser uses https. A proxy's header is trusted because it only makes cookies stricter."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))


def format_action(action: str, reason: str) -> str:
    """A decision's action; a quiet day's is `keep: no alerts`."""
    return "keep: no alerts" if action == "keep" and reason.startswith("no alert") else action


def format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def format_duration(seconds: float) -> str:
    """A duration by its two largest units, such as `12 days 9 h` or `11 min 40 s`."""
    rest = max(int(seconds), 0)
    parts: list[str] = []
    for unit, size in (("day", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}" + ("s" if unit == "day" and count > 1 else ""))
    return " ".join(parts[:2])


def format_figure(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.4g}"


def format_reason(text: str) -> str:
    """A text with readable times: one day as its date, midnight as a date, other times to the minute."""
    text = _WHOLE_DAYS.sub(_format_one_day, text)
    return _MINUTE.sub(" \\1", _MIDNIGHT.sub("", text)).replace("..", " to ")


def _format_one_day(window: re.Match[str]) -> str:
    start, end = (date.fromisoformat(text) for text in window.groups())
    return start.isoformat() if end - start == timedelta(days=1) else window[0]


def format_words(text: str | None) -> str:
    return text.replace("_", " ") if text else MISSING


def format_release(release: Release | str | None) -> str:
    release_id = release.id if isinstance(release, Release) else release
    return release_id[:12] if release_id else "none"
