"""A browser's session: the token is taken once, and a signed cookie says from then on whose it was.

The cookie holds no token: a name, the mark of the token (`credentials.Entry.mark`) and when it ends, under an HMAC. A
session ends by its time, or when its token leaves the tokens file. Forms carry a second HMAC, bound to the session and
to a random cookie of the browser, which no other site can know (`csrf`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from evermodel import storage
from evermodel.credentials import Caller, Tokens
from evermodel.errors import InputError

SESSION, VISIT = "evermodel_session", "evermodel_visit"
LONGEST = timedelta(hours=12)
LEAST_KEY = 32


def session_key(path: str | None) -> bytes:
    """The signing key from its file; a new one where there is none, so that sessions end with the process."""
    if path is None:
        return secrets.token_bytes(LEAST_KEY)
    key = storage.read_bytes(path, limit=4096).strip()
    if len(key) < LEAST_KEY:
        raise InputError(f"session key {path}: at least {LEAST_KEY} bytes are needed, such as `openssl rand -hex 32`")
    return key


class Sessions:
    """Signs and reads cookies."""

    def __init__(self, key: bytes, *, clock: Callable[[], datetime]) -> None:
        self._key, self._clock = key, clock

    def open(self, caller: Caller) -> str:
        """The value of the session cookie of a caller who has shown a token."""
        said = {"name": caller.name, "mark": caller.mark, "end": (self._clock() + LONGEST).timestamp()}
        text = base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
        return f"{text}.{self._sign('session', text)}"

    def read(self, cookie: str | None, tokens: Tokens) -> Caller | None:
        """Whose session it is; None where it is over, forged, or its token isn't known any more."""
        text, dot, signature = (cookie or "").partition(".")
        if not dot or not hmac.compare_digest(self._sign("session", text).encode(), signature.encode()):
            return None
        said = json.loads(base64.urlsafe_b64decode(text))
        if self._clock().timestamp() >= said["end"]:
            return None
        return tokens.still(said["name"], said["mark"])

    def csrf(self, visit: str, session: str) -> str:
        """What a form of this browser and session carries."""
        return self._sign("csrf", f"{visit}|{session}")

    def is_csrf(self, given: str, visit: str, session: str) -> bool:
        return bool(visit) and hmac.compare_digest(self.csrf(visit, session).encode(), given.encode())

    def _sign(self, use: str, text: str) -> str:
        return hmac.new(self._key, f"{use}:{text}".encode(), hashlib.sha256).hexdigest()


def new_visit() -> str:
    return secrets.token_urlsafe(24)
