"""The online store in SQLite: one packed row for each entity and view, read without importing Feast.

A view's numbers are one blob of float64 (NaN is null), its texts one JSON list, so a look-up of many entities is one
indexed query and one `frombuffer`; Feast's own SQLite store keeps and scans a row for each feature.
`features.repository` offers the same file to Feast as an online store; `features.redis_store` is the same in Redis.

A write never goes back in time: a row with an older event time than the entity's stored row is skipped. Of rows with
one time the last one written stays, because it has seen at least as many events (Redis does the same).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evermodel import storage
from evermodel.errors import FeatureStoreError

Key = str | int
Names = tuple[tuple[str, ...], tuple[str, ...]]  # of a view's numbers, of its texts
Row = tuple[int, bytes, str | bytes]  # as it is stored: event time, float64 numbers, texts as JSON


@dataclass(frozen=True)
class Packed:
    """Features of some entities, in the order of the keys.

    `numbers` is float64[n, len(number_names)], NaN if null or unknown; `texts` has n lists; `event_times` is int64[n] in
    microseconds, -1 if the entity is unknown.
    """

    number_names: tuple[str, ...]
    text_names: tuple[str, ...]
    numbers: np.ndarray
    texts: list[list[str | None]]
    event_times: np.ndarray

    def column(self, name: str) -> list[Any]:
        """One feature as Python values, None for null."""
        if name in self.text_names:
            index = self.text_names.index(name)
            return [row[index] for row in self.texts]
        values = self.numbers[:, self.number_names.index(name)]
        return [None if np.isnan(value) else float(value) for value in values]


class KeyValueStore(Protocol):
    """An online store of packed views: `PackedStore`, or `redis_store.RedisStore`."""

    def define(self, view: str, *, numbers: Sequence[str], texts: Sequence[str]) -> None: ...

    def drop(self, view: str) -> None: ...

    def write(
        self,
        view: str,
        keys: Sequence[Key],
        event_times: np.ndarray,
        numbers: np.ndarray,
        texts: Sequence[Sequence[str | None]],
    ) -> None: ...

    def read(self, view: str, keys: Sequence[Key]) -> Packed: ...

    def close(self) -> None: ...


class PackedStore:
    """A file of packed views. One instance is for one thread."""

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        storage.make_folder(Path(path).parent)
        self._path = str(path)
        try:
            self._connection = sqlite3.connect(self._path, timeout=timeout_s, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS views (name TEXT PRIMARY KEY, numbers TEXT NOT NULL, texts TEXT NOT NULL)"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS packed (view TEXT, key TEXT, event_time INTEGER NOT NULL,"
                " numbers BLOB NOT NULL, texts TEXT NOT NULL, PRIMARY KEY (view, key)) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise FeatureStoreError(f"online store {self._path}: {error}") from None

    def define(self, view: str, *, numbers: Sequence[str], texts: Sequence[str]) -> None:
        """Defines a view's features. A view whose features have changed is emptied, because its rows can't be read."""
        known = self._names(view)
        if known == (tuple(numbers), tuple(texts)):
            return
        with self._transaction():
            self._connection.execute("DELETE FROM packed WHERE view = ?", (view,))
            self._connection.execute(
                "INSERT OR REPLACE INTO views VALUES (?, ?, ?)",
                (view, json.dumps(list(numbers)), json.dumps(list(texts))),
            )

    def drop(self, view: str) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM packed WHERE view = ?", (view,))
            self._connection.execute("DELETE FROM views WHERE name = ?", (view,))

    def write(
        self,
        view: str,
        keys: Sequence[Key],
        event_times: np.ndarray,
        numbers: np.ndarray,
        texts: Sequence[Sequence[str | None]],
    ) -> None:
        """Upserts one row per key (int64[n] µs, float64[n, numbers]); an older event time changes nothing."""
        matrix = check_rows(view, self._view(view), len(keys), numbers, texts)
        rows = [
            (view, str(key), int(time), row.tobytes(), json.dumps(list(text)))
            for key, time, row, text in zip(keys, event_times, matrix, texts, strict=True)
        ]
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO packed VALUES (?, ?, ?, ?, ?) ON CONFLICT (view, key) DO UPDATE SET"
                " event_time = excluded.event_time, numbers = excluded.numbers, texts = excluded.texts"
                " WHERE excluded.event_time >= packed.event_time",
                rows,
            )

    def read(self, view: str, keys: Sequence[Key]) -> Packed:
        """Features of `keys`, in their order; FeatureStoreError if the store or the view isn't there."""
        names, wanted = self._view(view), [str(key) for key in keys]
        found: dict[str, Row] = {}
        for start in range(0, len(wanted), 900):  # below SQLite's limit of variables
            part = wanted[start : start + 900]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, event_time, numbers, texts FROM packed WHERE view = ? AND key IN ({marks})"  # noqa: S608
            found.update({row[0]: row[1:] for row in self._query(query, (view, *part))})
        return unpack(names, [found.get(key) for key in wanted])

    def close(self) -> None:
        self._connection.close()

    def _view(self, view: str) -> Names:
        names = self._names(view)
        if names is None:
            raise FeatureStoreError(f"online store {self._path} has no view {view!r}: apply the features first")
        return names

    def _names(self, view: str) -> Names | None:
        rows = self._query("SELECT numbers, texts FROM views WHERE name = ?", (view,))
        return (tuple(json.loads(rows[0][0])), tuple(json.loads(rows[0][1]))) if rows else None

    def _query(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise FeatureStoreError(f"online store {self._path}: {error}") from None

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)


def check_rows(
    view: str,
    names: Names,
    count: int,
    numbers: np.ndarray,
    texts: Sequence[Sequence[str | None]],
) -> np.ndarray:
    """The numbers as float64[count, numbers of the view]; FeatureStoreError if they or the texts don't fit it."""
    matrix = np.ascontiguousarray(numbers, dtype=np.float64)
    if matrix.shape != (count, len(names[0])) or any(len(row) != len(names[1]) for row in texts):
        raise FeatureStoreError(f"view {view!r} has {len(names[0])} numbers and {len(names[1])} texts per row")
    return matrix


def unpack(names: Names, rows: Sequence[Row | None]) -> Packed:
    """Stored rows, None for an unknown entity, as features."""
    number_names, text_names = names
    unknown = (-1, np.full(len(number_names), np.nan).tobytes(), json.dumps([None] * len(text_names)))
    known = [unknown if row is None else row for row in rows]
    numbers = np.frombuffer(b"".join(row[1] for row in known), dtype=np.float64)
    return Packed(
        number_names,
        text_names,
        numbers.reshape(len(known), len(number_names)),
        [json.loads(row[2]) for row in known] if text_names else [[] for _ in known],
        np.array([row[0] for row in known], dtype=np.int64),
    )


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, so that two writers wait for each other and don't fail in the middle."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *rest: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
