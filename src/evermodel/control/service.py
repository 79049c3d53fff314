"""What the control service stands on: a project, its ledger, a clock, who may call, and what serving says it has live."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any

import httpx

from evermodel import storage, workflow
from evermodel import use_case as use_cases
from evermodel.credentials import Tokens
from evermodel.errors import InputError, nearest
from evermodel.ledger import Ledger
from evermodel.use_case import UseCase
from evermodel.workflow import Project

Status = Mapping[str, Any]


class Unknown(InputError):
    """A use case that isn't of this project."""


@dataclass
class Service:
    """One project's control service. Any thread may use it; a ledger that is down is asked for anew each time.

    `tokens`: None in `local`, where everybody who reaches 127.0.0.1 is the local user. `serving`: asks serving what is
    live; None where there is nobody to ask. `aliases`: brings the registry after the ledger.
    """

    project: Project
    clock: Callable[[], datetime]
    tokens: Tokens | None = None
    serving: Callable[[], Status] | None = None
    aliases: Callable[[Project, str], object] = workflow.sync_aliases
    _ledger: Ledger | None = None
    _cases: dict[str, tuple[tuple[int, int], UseCase]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def ledger(self) -> Ledger:
        """Opened once it answers; a connection a transaction, so that it may be gone in between."""
        with self._lock:
            if self._ledger is None:
                self._ledger = self.project.ledger()
            return self._ledger

    def places(self) -> dict[str, str]:
        """Where each use case's file lies, by name."""
        found = storage.list_files(self.project.profile.root / "use_cases", suffix=".yaml")
        return {os.path.basename(path).removesuffix(".yaml"): path for path in found}

    def cases(self) -> dict[str, UseCase]:
        return {name: self.case(name) for name in self.places()}

    def case(self, name: str) -> UseCase:
        """A use case of the project, read again when its file changes. `Unknown` where there is none of that name."""
        places = self.places()
        if name not in places:
            raise Unknown(f"no use case {name!r} here; {nearest(name, places)}")
        stat = os.stat(places[name])
        known, seen = self._cases.get(name), (stat.st_mtime_ns, stat.st_size)
        if known is None or known[0] != seen:
            known = self._cases[name] = (seen, use_cases.load(places[name]))
        return known[1]

    def live(self) -> Status:
        """What serving says (`ModelManager.status`); `error` where it doesn't answer, nothing where it isn't asked."""
        if self.serving is None:
            return {"use_cases": {}}
        try:
            return self.serving()
        except (httpx.HTTPError, OSError, ValueError) as error:
            return {"use_cases": {}, "error": f"serving doesn't answer: {type(error).__name__}"}


def asks_serving(url: str, *, token_file: str | None = None, seconds: float = 1.0) -> Callable[[], Status]:
    """Asks `/readyz` of serving, each time over a new connection, so that another replica may answer."""
    trusted = ssl.create_default_context()  # read once: it costs more than the request

    def ask() -> Status:
        token = storage.read_text(token_file).strip() if token_file else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(timeout=seconds, trust_env=False, verify=trusted) as client:
            answer = client.get(f"{url.rstrip('/')}/readyz", headers=headers)
        said = answer.json()
        if not isinstance(said, dict):
            raise ValueError("no status")
        return {"use_cases": {}, **said}

    return ask
