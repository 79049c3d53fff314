"""What every part of the control service uses: the project, its ledger, a clock, the tokens and serving's status."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

import httpx

from evermodel import storage, workflow
from evermodel import use_case as use_case_file
from evermodel.credentials import Tokens
from evermodel.errors import InputError, nearest
from evermodel.ledger import Ledger
from evermodel.use_case import UseCase
from evermodel.workflow import Project

Status = Mapping[str, Any]


class UnknownUseCaseError(InputError):
    """The project has no use case of that name."""


class RolloutController(Protocol):
    """What API and metrics need of the reconciler."""

    def retry(self, name: str) -> None:
        """Tries the champion that failed once more."""
        ...

    def lag(self) -> dict[str, float]:
        """Seconds since the promotion of each champion that serving does not have live yet, by use case; else 0."""
        ...

    def failed(self) -> dict[str, int]:
        """1 for each use case whose champion failed to go live, else 0."""
        ...


@dataclass
class Service:
    """One project's control service. Thread-safe.

    `tokens`: None in the local profile, where every caller of 127.0.0.1 is the local user. `serving`: reads serving's
    status; None if there is no serving to ask. `sync_aliases`: sets the registry's aliases to what the ledger says.
    """

    project: Project
    clock: Callable[[], datetime]
    tokens: Tokens | None = None
    serving: Callable[[], Status] | None = None
    sync_aliases: Callable[[Project, str], object] = workflow.sync_aliases
    _parsed: dict[str, tuple[tuple[int, int], UseCase]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def ledger(self) -> Ledger:
        """Opened at first use; a failed attempt is repeated at the next use."""
        return self.project.ledger()

    def use_case_files(self) -> dict[str, str]:
        """The path of each use case's file, by name."""
        paths = storage.list_files(self.project.profile.root / "use_cases", suffix=".yaml")
        return {os.path.basename(path).removesuffix(".yaml"): path for path in paths}

    def use_cases(self) -> dict[str, UseCase]:
        return {name: self.use_case(name) for name in self.use_case_files()}

    def use_case(self, name: str) -> UseCase:
        """A use case of the project, read again if its file has changed. Raises UnknownUseCaseError."""
        files = self.use_case_files()
        if name not in files:
            raise UnknownUseCaseError(f"no use case {name!r} here; {nearest(name, files)}")
        stat = os.stat(files[name])
        version = (stat.st_mtime_ns, stat.st_size)
        parsed = self._parsed.get(name)
        if parsed is None or parsed[0] != version:
            parsed = self._parsed[name] = (version, use_case_file.load(files[name]))
        return parsed[1]

    def serving_status(self) -> Status:
        """What serving reports (`ModelManager.status`), with `error` if it does not answer; empty without serving."""
        if self.serving is None:
            return {"use_cases": {}}
        try:
            return self.serving()
        except (httpx.HTTPError, OSError, ValueError) as error:
            return {"use_cases": {}, "error": f"serving does not answer: {type(error).__name__}"}


class ServingClient:
    """Reads `/readyz` of serving, each time over a new connection, so that any replica may answer."""

    def __init__(self, url: str, *, token_file: str | None = None, timeout: float = 1.0) -> None:
        self._url, self._token_file, self._timeout = f"{url.rstrip('/')}/readyz", token_file, timeout
        self._trusted = ssl.create_default_context()  # made once: it costs more than the request

    def status(self) -> Status:
        """Raises httpx.HTTPError, OSError or ValueError if there is no answer or the answer is not a status."""
        token = storage.read_text(self._token_file).strip() if self._token_file else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(timeout=self._timeout, trust_env=False, verify=self._trusted) as client:
            status = client.get(self._url, headers=headers).json()
        if not isinstance(status, dict):
            raise ValueError("no status")
        return {"use_cases": {}, **status}
