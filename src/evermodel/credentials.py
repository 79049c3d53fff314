"""Bearer tokens: a file lists the sha256 of each token, and may change while it is in use.

The file is a JSON list: `[{"name": "ops", "role": "admin", "sha256": "<64 hex digits>"}]`. Two entries with one name are
one caller whose token is being replaced. No log line, answer or error contains a token or a digest. A plain digest
without salt is enough because a token is 32 random bytes, never a password.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from evermodel import storage
from evermodel.errors import EvermodelError, InputError

Role = Literal["admin", "viewer", "alertmanager", "service", "caller"]
MAX_BYTES = 1024 * 1024
log = logging.getLogger(__name__)


class Entry(BaseModel):
    """One token: its owner, the owner's role, and the token's sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)

    @property
    def token_id(self) -> str:
        """Identifies the token in a session without revealing anything of it."""
        return hashlib.sha256(f"token-id:{self.sha256}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Caller:
    """The owner of a token."""

    name: str
    role: Role
    token_id: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused: 401 without a known token, 403 if the caller's role does not allow it."""

    status: Literal[401, 403]
    code: str
    reason: str


class Tokens:
    """The tokens of one file. Thread-safe. If the file becomes unreadable, the last readable list stays in use."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._lock = str(path), Lock()
        self._seen = self._signature()
        self._entries = self._read()

    @classmethod
    def from_file(cls, path: str | Path) -> Tokens:
        """Raises InputError if the file does not exist or its content is not valid."""
        return cls(path)

    def authenticate(self, header: str | None) -> Caller | None:
        """The caller of an `Authorization` header, or None if the token is unknown.

        Compares every entry, each in constant time, so that the duration reveals nothing.
        """
        kind, _, token = (header or "").strip().partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            return None
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        found: Entry | None = None
        for entry in self._current():
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return Caller(found.name, found.role, found.token_id) if found else None

    def find_caller(self, name: str, token_id: str) -> Caller | None:
        """The caller with this token, or None if the token is no longer in the file: a session ends with its token."""
        for entry in self._current():
            if entry.name == name and hmac.compare_digest(entry.token_id, token_id):
                return Caller(entry.name, entry.role, entry.token_id)
        return None

    def _current(self) -> tuple[Entry, ...]:
        with self._lock:
            try:
                if (signature := self._signature()) != self._seen:
                    self._seen = signature
                    self._entries = self._read()
            except EvermodelError as error:  # half written or missing: known callers keep their access
                log.warning("%s; the tokens read before stay valid", error)
            return self._entries

    def _signature(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise InputError(f"tokens file {self._path}: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[Entry, ...]:
        try:
            data = storage.read_bytes(self._path, limit=MAX_BYTES)
            entries = TypeAdapter(tuple[Entry, ...]).validate_json(data)
        except OSError as error:
            raise InputError(f"tokens file {self._path}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            location = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"tokens file {self._path}: {location}: {first['msg']}") from None
        if len({entry.sha256 for entry in entries}) != len(entries):
            raise InputError(f"tokens file {self._path}: it contains one token twice; each caller needs its own token")
        return entries


def authorize(tokens: Tokens, header: str | None, roles: frozenset[Role] | None) -> Caller | Refusal:
    """The caller of this `Authorization` header, or why the request is refused. `roles`: allowed roles; None: any."""
    caller = tokens.authenticate(header)
    if caller is None:
        reason = "the token is unknown" if header else "a token is required; send `Authorization: Bearer TOKEN`"
        return Refusal(401, "unauthenticated", reason)
    return check_role(caller, roles) or caller


def check_role(caller: Caller, roles: frozenset[Role] | None) -> Refusal | None:
    """A refusal if the caller's role is not one of `roles`, else None."""
    if roles is None or caller.role in roles:
        return None
    return Refusal(403, "forbidden", f"role {caller.role} may not do this; {' or '.join(sorted(roles))} may")
