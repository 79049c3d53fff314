"""Who may call: bearer tokens, known by their sha256 alone, in a file that may change while it is in use.

The file is a JSON list, `[{"name": "ops", "role": "admin", "sha256": "<64 hex digits>"}]`; two entries of one name are
one caller whose token is being changed. No token and no digest is ever logged, answered or part of an error. A digest
without salt or stretching is enough for what nobody can guess: 32 random bytes, never a password.
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
    """One token: whose it is, what its bearer may do, and its sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)

    @property
    def mark(self) -> str:
        """Names the token to somebody who keeps a session for its bearer, and says nothing about it."""
        return hashlib.sha256(f"mark:{self.sha256}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Caller:
    """Who a token belongs to."""

    name: str
    role: Role
    mark: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a request isn't let in: 401 without a known token, 403 with one that may not."""

    status: Literal[401, 403]
    code: str
    reason: str


class Tokens:
    """The tokens of one file. Any thread may ask; a file that can't be read any more leaves the ones that were."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._lock = str(path), Lock()
        self._seen = self._signature()
        self._entries = self._read()

    @classmethod
    def from_file(cls, path: str | Path) -> Tokens:
        """InputError where there is no such file, or it isn't the list that it should be."""
        return cls(path)

    def check(self, header: str | None) -> Caller | None:
        """Who sent an `Authorization` header; None where it names no known token. Every entry is compared, each in
        constant time, so that how long it takes says nothing."""
        kind, _, token = (header or "").strip().partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            return None
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        found: Entry | None = None
        for entry in self._current():
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return Caller(found.name, found.role, found.mark) if found else None

    def still(self, name: str, mark: str) -> Caller | None:
        """The caller whose token had this mark, while the token is in the file: a session ends with its token."""
        for entry in self._current():
            if entry.name == name and hmac.compare_digest(entry.mark, mark):
                return Caller(entry.name, entry.role, entry.mark)
        return None

    def _current(self) -> tuple[Entry, ...]:
        with self._lock:
            try:
                if (signature := self._signature()) != self._seen:
                    self._seen = signature
                    self._entries = self._read()
            except EvermodelError as error:  # half written, or gone: who could come in still can, and it is said
                log.warning("%s; the tokens that were known go on", error)
            return self._entries

    def _signature(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise InputError(f"tokens file {self._path}: {error.strerror}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[Entry, ...]:
        try:
            data = storage.read_bytes(self._path, limit=MAX_BYTES)
            entries = TypeAdapter(tuple[Entry, ...]).validate_json(data)
        except OSError as error:
            raise InputError(f"tokens file {self._path}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"tokens file {self._path}: {where}: {first['msg']}") from None
        if len({entry.sha256 for entry in entries}) != len(entries):
            raise InputError(f"tokens file {self._path}: one token is in it twice; each caller needs one of its own")
        return entries


def admit(tokens: Tokens, header: str | None, roles: frozenset[Role] | None) -> Caller | Refusal:
    """Whether a request with this `Authorization` header comes in; `roles` are those that may, None: any."""
    caller = tokens.check(header)
    if caller is None:
        why = "the token isn't known" if header else "this needs a token; send `Authorization: Bearer TOKEN`"
        return Refusal(401, "unauthenticated", why)
    return refused(caller, roles) or caller


def refused(caller: Caller, roles: frozenset[Role] | None) -> Refusal | None:
    """Why this caller may not; None where it may."""
    if roles is None or caller.role in roles:
        return None
    return Refusal(403, "forbidden", f"role {caller.role} may not do this; {' or '.join(sorted(roles))} may")
