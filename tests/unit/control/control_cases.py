"""A control service over a ledger with a history, and a client that calls it in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from evermodel.control.actions import RunLauncher
from evermodel.control.app import create_control
from evermodel.control.auth.session import Sessions
from evermodel.control.service import RolloutController, Service
from evermodel.credentials import Tokens
from evermodel.records import Decision
from evermodel.workflow import Project
from tests.support.ledger_history import NOW

KEY = b"k" * 32
ROLES = {"ops": "admin", "eve": "viewer", "am": "alertmanager", "prom": "service", "app": "caller"}


def token(name: str) -> str:
    return f"token-of-{name}"


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token(name)}"}


def write_tokens(path: Path, roles: Mapping[str, str] = ROLES) -> Path:
    entries = [
        {"name": name, "role": role, "sha256": hashlib.sha256(token(name).encode()).hexdigest()}
        for name, role in roles.items()
    ]
    path.write_text(json.dumps(entries))
    return path


class ControlHarness:
    """A control service with a clock that a test sets. Its runs are only recorded in `started`, or call `run`."""

    def __init__(
        self, project: Project, tokens: Path | None = None, *, rollout: RolloutController | None = None, **options: Any
    ) -> None:
        self.now: datetime = NOW
        self.tokens = tokens
        self.started: list[Decision] = []
        self.run: Callable[[Decision], None] = self.started.append
        self.service = Service(
            project,
            clock=lambda: self.now,
            tokens=Tokens.from_file(tokens) if tokens else None,
            sync_aliases=lambda _project, _name: None,
            **options,
        )
        self.launcher = RunLauncher(self.service, run=lambda _service, decision: self.run(decision))
        sessions = Sessions(KEY, clock=lambda: self.now)
        self.app = create_control(self.service, sessions=sessions, launcher=self.launcher, rollout=rollout)

    def client(self, **headers: str) -> Client:
        return Client(self.app, headers)


class Client:
    """Sends requests as a program or a browser does; keeps cookies."""

    def __init__(self, app: Any, headers: Mapping[str, str], host: str = "127.0.0.1:8080") -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._headers, self._base = dict(headers), f"http://{host}"
        self.cookies = httpx.Cookies()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def submit(self, path: str, fields: Mapping[str, str], **options: Any) -> httpx.Response:
        """A form, as a browser sends it."""
        headers = {"content-type": "application/x-www-form-urlencoded", **options.pop("headers", {})}
        return self.request("POST", path, content=urlencode(fields), headers=headers, **options)

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url=self._base, cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, headers={**self._headers, **(headers or {})}, **options)
                self.cookies = client.cookies
                return answer

        return asyncio.run(send())


class BrokenLedger:
    """Fails at every use with the same error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def hidden_field(page: str, name: str) -> str:
    """The value of a form's hidden field."""
    start = page.index(f'name="{name}" value="') + len(f'name="{name}" value="')
    return page[start : page.index('"', start)]
