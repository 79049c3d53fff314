"""A control service over a ledger with a story, and a client that speaks to it in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from evermodel.control.actions import Runs
from evermodel.control.api.metrics import Projection
from evermodel.control.app import create_control
from evermodel.control.auth.session import Sessions
from evermodel.control.service import Service
from evermodel.credentials import Tokens
from evermodel.records import Decision
from evermodel.workflow import Project
from tests.support.ledger_history import NOW

KEY = b"k" * 32
TOKENS = {"ops": "admin", "eve": "viewer", "am": "alertmanager", "prom": "service", "app": "caller"}


def token(name: str) -> str:
    return f"token-of-{name}"


def write_tokens(path: Path, names: Mapping[str, str] = TOKENS) -> Path:
    entries = [
        {"name": name, "role": role, "sha256": hashlib.sha256(token(name).encode()).hexdigest()}
        for name, role in names.items()
    ]
    path.write_text(json.dumps(entries))
    return path


class Desk:
    """A control service with all that it stands on; runs that it starts are only remembered."""

    def __init__(
        self, project: Project, tokens: Path | None = None, *, projection: Projection | None = None, **more: Any
    ) -> None:
        self.now: datetime = NOW
        self.started: list[Decision] = []
        known = Tokens.from_file(tokens) if tokens else None
        self.aliased: list[str] = []
        more.setdefault("aliases", lambda _project, name: self.aliased.append(name))
        self.service = Service(project, clock=lambda: self.now, tokens=known, **more)
        self.runs = Runs(self.service, launch=lambda _service, decision: self.started.append(decision))
        self.sessions = Sessions(KEY, clock=lambda: self.now)
        self.app = create_control(self.service, sessions=self.sessions, runs=self.runs, projection=projection)

    def client(self, **headers: str) -> Client:
        return Client(self.app, headers)


class Client:
    """A program's or a browser's requests; cookies are kept."""

    def __init__(self, app: Any, headers: Mapping[str, str], host: str = "127.0.0.1:8080") -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._headers, self._base = dict(headers), f"http://{host}"
        self.cookies = httpx.Cookies()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("POST", path, **more)

    def send(self, path: str, fields: Mapping[str, str], **more: Any) -> httpx.Response:
        """A form, as a browser sends it."""
        headers = {"content-type": "application/x-www-form-urlencoded", **more.pop("headers", {})}
        return self.ask("POST", path, content=urlencode(fields), headers=headers, **more)

    def ask(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url=self._base, cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, headers={**self._headers, **(headers or {})}, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(go())


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token(name)}"}


def field(page: str, name: str) -> str:
    """The value of a form's hidden field."""
    start = page.index(f'name="{name}" value="') + len(f'name="{name}" value="')
    return page[start : page.index('"', start)]
