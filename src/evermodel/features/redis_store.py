"""The online store in Redis: the same packed rows as `features.packed_store`, for replicas on many machines.

A view is two keys: its features, and a hash with one value per entity (event time, float64 numbers, texts as JSON). A
read is one round trip for any number of entities, a write is one script for each few hundred. Both see the view and its
rows at one instant, so a changed view never gives rows that were packed for the old one. A view's keys share a hash tag.

Each call is bounded by `timeout_s`. After a connection breaks, the next call opens a new one and reads the password's
file again, so a restart of Redis or a new password needs no new object.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from evermodel import storage
from evermodel.errors import FeatureStoreError
from evermodel.features.packed_store import Key, Names, Packed, Row, check_rows, unpack

if TYPE_CHECKING:
    from redis import Redis

PREFIX = "evermodel"
ROWS = 500  # of one script: Redis answers no other client while it runs
TIME = struct.Struct("<q")
#: KEYS: the view, its rows. ARGV: the view's definition, then pairs of an entity's key and its value.
WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[2], ARGV[i])
  if not known or struct.unpack('<i8', known) <= struct.unpack('<i8', ARGV[i + 1]) then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return 1
"""
DEFINE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return end
redis.call('UNLINK', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1])
"""


class RedisStore:
    """Packed views in the Redis at `uri` (`redis://host:6379/0`, `rediss://…?ssl_ca_certs=…`). Any thread may use it."""

    def __init__(self, uri: str, *, password_file: str | None = None, timeout_s: float = 5.0) -> None:
        self._shown_uri = _shown(uri)
        self._client = _connect(uri, password_file, timeout_s)

    def define(self, view: str, *, numbers: Sequence[str], texts: Sequence[str]) -> None:
        """Defines a view's features. A view whose features have changed is emptied, because its rows can't be read."""
        self._call(lambda client: client.eval(DEFINE, 2, *_keys(view), _definition(numbers, texts)))

    def drop(self, view: str) -> None:
        self._call(lambda client: client.unlink(*_keys(view)))

    def write(
        self,
        view: str,
        keys: Sequence[Key],
        event_times: np.ndarray,
        numbers: np.ndarray,
        texts: Sequence[Sequence[str | None]],
    ) -> None:
        """Upserts one row per key (int64[n] µs, float64[n, numbers]); an older event time changes nothing.

        An entity's row is written whole or not at all. After a crash only the first entities may be written; writing
        again completes them.
        """
        names = self._names(view, self._call(lambda client: client.get(_keys(view)[0])))
        matrix = check_rows(view, names, len(keys), numbers, texts)
        words: list[Any] = []
        for key, time, row, text in zip(keys, event_times, matrix, texts, strict=True):
            packed = json.dumps(list(text)).encode() if names[1] else b""
            words += [str(key), TIME.pack(int(time)) + row.tobytes() + packed]
        definition = _definition(*names)
        for start in range(0, len(words), 2 * ROWS):
            part = words[start : start + 2 * ROWS]
            if not self._call(lambda client, part=part: client.eval(WRITE, 2, *_keys(view), definition, *part)):
                raise FeatureStoreError(
                    f"online store {self._shown_uri}: view {view!r} was redefined while it was written"
                )

    def read(self, view: str, keys: Sequence[Key]) -> Packed:
        """Features of `keys`, in their order; FeatureStoreError if the store or the view isn't there."""
        definition, found = self._call(lambda client: _look_up(client, view, [str(key) for key in keys]))
        names = self._names(view, definition)
        end = TIME.size + 8 * len(names[0])

        def row(value: bytes) -> Row:
            return TIME.unpack_from(value)[0], value[TIME.size : end], value[end:]

        return unpack(names, [None if value is None else row(value) for value in found])

    def close(self) -> None:
        self._client.close()

    def _names(self, view: str, definition: bytes | None) -> Names:
        if definition is None:
            raise FeatureStoreError(f"online store {self._shown_uri} has no view {view!r}: apply the features first")
        numbers, texts = json.loads(definition)
        return tuple(numbers), tuple(texts)

    def _call(self, command: Any) -> Any:
        from redis.exceptions import RedisError

        try:
            return command(self._client)
        except (RedisError, OSError) as error:
            raise FeatureStoreError(f"online store {self._shown_uri}: {error}") from None


def _look_up(client: Redis, view: str, keys: list[str]) -> tuple[bytes | None, list[bytes | None]]:
    """The view and its rows, at one instant and in one round trip."""
    name, rows = _keys(view)
    if not keys:
        return client.get(name), []  # type: ignore[return-value]
    with client.pipeline(transaction=True) as pipe:
        pipe.get(name)
        pipe.hmget(rows, keys)
        definition, found = pipe.execute()
    return definition, found


def _keys(view: str) -> tuple[str, str]:
    return f"{PREFIX}:{{{view}}}:view", f"{PREFIX}:{{{view}}}:rows"


def _definition(numbers: Sequence[str], texts: Sequence[str]) -> str:
    return json.dumps([list(numbers), list(texts)])


def _shown(uri: str) -> str:
    """A URI without its password."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _connect(uri: str, password_file: str | None, timeout_s: float) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.credentials import CredentialProvider
        from redis.exceptions import ConnectionError
        from redis.retry import Retry
    except ImportError:
        raise FeatureStoreError(f"online store {_shown(uri)} needs the package redis: evermodel[redis]") from None

    class FromFile(CredentialProvider):
        """Reads the password each time that a connection signs in."""

        def get_credentials(self) -> tuple[str] | tuple[str, str]:
            password = storage.read_text(str(password_file)).rstrip("\n")
            return (user, password) if user else (password,)

    parts = urlsplit(uri)
    user, more = unquote(parts.username or ""), {}
    if password_file is not None:
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        more = {"credential_provider": FromFile()}
    return Redis.from_url(
        parts.geturl(),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        # one more try on a new connection, as after a restart; a timeout isn't tried again
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        **more,
    )
