"""Browser sessions: a person shows a token once; a signed cookie stands for it from then on.

The cookie holds the caller's name and the token's id (`credentials.Entry.token_id`), never the token, signed and dated
by itsdangerous. A session ends after `SESSION_LENGTH`, or when its token leaves the tokens file. Each form carries a
second signature, over the session and a random cookie of the browser, so that another site cannot send it (CSRF).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from itsdangerous import BadData, Signer, TimestampSigner, URLSafeTimedSerializer

from evermodel import storage
from evermodel.credentials import Caller, Tokens
from evermodel.errors import InputError

SESSION_COOKIE, BROWSER_COOKIE = "evermodel_session", "evermodel_browser"
SESSION_LENGTH = timedelta(hours=12)
MIN_KEY_BYTES = 32


def session_key(path: str | None) -> bytes:
    """The signing key from its file. Without a file: a random key, so that sessions end with the process."""
    if path is None:
        return secrets.token_bytes(MIN_KEY_BYTES)
    key = storage.read_bytes(path, limit=4096).strip()
    if len(key) < MIN_KEY_BYTES:
        raise InputError(f"session key {path}: at least {MIN_KEY_BYTES} bytes are needed, e.g. `openssl rand -hex 32`")
    return key


def new_browser_id() -> str:
    return secrets.token_urlsafe(24)


class ClockSigner(TimestampSigner):
    """A TimestampSigner that takes the time from the service's clock."""

    def __init__(self, *args: Any, clock: Callable[[], datetime], **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock().timestamp())


class Sessions:
    """Signs and reads session cookies and CSRF tokens."""

    def __init__(self, key: bytes, *, clock: Callable[[], datetime]) -> None:
        signature = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._cookies = URLSafeTimedSerializer(
            key, salt="evermodel.session", signer=ClockSigner, signer_kwargs={**signature, "clock": clock}
        )
        self._forms = Signer(key, salt="evermodel.csrf", key_derivation="hmac", digest_method=hashlib.sha256)

    def open(self, caller: Caller) -> str:
        """The session cookie of a caller who has shown a token."""
        return str(self._cookies.dumps([caller.name, caller.token_id]))

    def read(self, cookie: str, tokens: Tokens) -> Caller | None:
        """The caller of a session cookie, or None if it has ended, is forged, or its token is no longer known."""
        try:
            # itsdangerous still accepts an age of exactly `max_age` seconds
            name, token_id = self._cookies.loads(cookie, max_age=int(SESSION_LENGTH.total_seconds()) - 1)
        except BadData:
            return None
        return tokens.find_caller(name, token_id)

    def csrf(self, browser_id: str, session: str) -> str:
        """The CSRF token for the forms of this browser and session."""
        return self._forms.get_signature(f"{browser_id}|{session}").decode()

    def is_csrf(self, token: str, browser_id: str, session: str) -> bool:
        """Whether `token` was made for this browser and session; compared in constant time."""
        return bool(browser_id) and self._forms.verify_signature(f"{browser_id}|{session}", token)
