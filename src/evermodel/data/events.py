"""The event log: append-only Parquet by event date, each batch in it exactly once.

    root/<source>/date=YYYY-MM-DD/<digest>.parquet     rows, sorted by the given keys and time within a file
    root/<source>/_commits/<n>.json                    created exclusively and last: this is the commit
    root/<source>/_compactions/<n>.json                the same rows in fewer files, up to commit n

Readers see committed files only, so the files of a crashed writer do no harm; its next run writes the same names
again. A data file holds each row's place in its batch, and the commit holds the sequence where the batch starts. So a
writer that loses the race for a number commits under the next one without writing its data again. Each commit's `chain`
covers the one before it, and a commit holds each file's digest: a cut or changed file is an IntegrityError.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from evermodel import storage
from evermodel.columns import ARROW_TYPES, TIME, ints, put_column
from evermodel.data.tables import table_digest
from evermodel.errors import ConflictError, DataError, IntegrityError, nearest
from evermodel.failpoint import failpoint
from evermodel.records import Artifact, Time, Window, canonical_json, sha256
from evermodel.use_case import Source

SEQUENCE = "ingest_seq"
SYSTEM = ("event_time", "created_time", SEQUENCE)
DAY = 86_400 * 1_000_000

Record = TypeVar("Record", bound=Artifact)


class DataFile(Artifact):
    """A Parquet file of one event date. The ingest sequence of a row is its place in the file's column plus `base`."""

    path: str  # below root/<source>
    rows: int
    sha256: str
    base: int


class Commit(Artifact):
    """One batch in the log."""

    number: int
    source: str
    batch_id: str
    rows: int
    content: str  # digest of the rows, independent of the files that hold them
    base: int  # ingest sequence of its first row
    at: Time | None = None  # when it was ingested, if the writer states it; not part of the data version
    columns: tuple[tuple[str, str], ...]  # name, arrow type
    files: tuple[DataFile, ...]
    chain: str  # sha256 of the previous commit's chain and of all above

    def sealed(self, previous: str) -> Commit:
        content = canonical_json([previous, self.model_copy(update={"chain": ""}).model_dump(mode="json")])
        return self.model_copy(update={"chain": sha256(content.encode())})


class Compaction(Artifact):
    """The rows of the first `commits` commits, rewritten."""

    number: int
    commits: int
    files: tuple[DataFile, ...]


def event_schema(source: Source) -> pa.Schema:
    """The columns of a source's event table: fields, constants, and the three that the log keeps."""
    fields = [(field.name, ARROW_TYPES[field.type]) for field in source.fields]
    constants = [(name, pa.scalar(value).type) for name, value in source.constants.items()]
    return pa.schema([*fields, *constants, ("event_time", TIME), ("created_time", TIME), (SEQUENCE, pa.int64())])


class EventLog:
    """Events of any number of sources below one root (a path or a URI). Any number of writers and readers.

    `sources`: what a use case declares. Their columns can be read before a batch has them: as nulls, or without rows.
    """

    def __init__(self, root: str, sources: Iterable[Source] = ()) -> None:
        self.root = str(root)
        self._declared = {source.name: event_schema(source) for source in sources}
        self._known: dict[str, list[Commit]] = {}

    def commits(self, source: str) -> list[Commit]:
        """All commits in order. IntegrityError if one is missing, unreadable or changed."""
        known = self._known.setdefault(source, [])
        for uri in self._numbered(source, "_commits", start=len(known)):
            commit = _parse(Commit, uri)
            if commit.number != len(known):
                raise IntegrityError(f"{self.root}: commit {len(known)} of {source} is missing")
            if commit.chain != commit.sealed(known[-1].chain if known else "").chain:
                raise IntegrityError(f"{uri} or a commit before it was changed after it was written")
            known.append(commit)
        return list(known)

    def append(
        self,
        source: str,
        table: pa.Table,
        *,
        batch_id: str,
        sort_by: Sequence[str] = (),
        after: int | None = None,
        at: datetime | None = None,
    ) -> tuple[Commit, bool]:
        """Adds a batch in its rows' order. Returns its commit, and False if the log held a batch of that id already.

        `table` has event_time and created_time and no ingest_seq, which this function sets. `sort_by` orders the rows
        within a file. `after`: commit only directly after so many commits, else ConflictError, so that a caller that
        has compared its rows with the log compares them again; without it a lost race is tried again. `at`: kept in
        the commit.
        """
        if found := self.find(source, batch_id):
            return found, False
        _check_columns(source, table, self.commits(source))
        table = table.combine_chunks()
        content = table_digest(table)
        files: tuple[DataFile, ...] | None = None
        while True:
            commits = self.commits(source)
            if found := next((commit for commit in commits if commit.batch_id == batch_id), None):
                return found, False
            if after is not None and len(commits) != after:
                raise ConflictError(f"{source} has {len(commits)} commits, not {after}: another batch came first")
            if files is None:
                stem = sha256(canonical_json([batch_id, content]).encode())[:20]
                placed = put_column(table, SEQUENCE, pa.array(np.arange(table.num_rows, dtype=np.int64)))
                files = self._write(source, placed, stem, sort_by)
                failpoint("events.append.before_commit")
            base = commits[-1].base + commits[-1].rows if commits else 0
            commit = Commit(
                number=len(commits),
                source=source,
                batch_id=batch_id,
                rows=table.num_rows,
                content=content,
                base=base,
                at=at,
                columns=tuple((field.name, str(field.type)) for field in table.schema),
                files=tuple(file.model_copy(update={"base": base}) for file in files),
                chain="",
            ).sealed(commits[-1].chain if commits else "")
            try:
                storage.create_bytes(self._number(source, "_commits", commit.number), commit.to_json().encode())
            except ConflictError:
                continue
            return commit, True

    def find(self, source: str, batch_id: str) -> Commit | None:
        """The commit of a batch, if it is in the log."""
        return next((commit for commit in self.commits(source) if commit.batch_id == batch_id), None)

    def read(
        self, source: str, *, window: Window | None = None, columns: Sequence[str] | None = None, since: int = 0
    ) -> pa.Table:
        """The events of a window (all events if None), sorted by (event_time, ingest_seq).

        `columns`: exactly these, in this order. `since`: leave out the first so many commits. Files of dates outside
        the window aren't opened. A source without events gives no rows, with its declared columns, or at least the
        three that each source has.
        """
        for attempt in range(3):
            commits = self.commits(source)
            files = self._live(source, commits, since)
            if window is not None:
                files = [file for file in files if _overlaps(file, window)]
            try:
                table = self._open(source, files, commits, columns)
            except FileNotFoundError as error:  # a compaction replaced it since `_live`, or it is lost
                if attempt == 2:
                    raise IntegrityError(f"a committed file of {source} is gone: {error}") from None
                continue
            if window is None and since == 0 and table.num_rows != (total := sum(commit.rows for commit in commits)):
                raise IntegrityError(f"{self.root}: {source} has {table.num_rows} rows, its commits say {total}")
            first = commits[since].base if since < len(commits) else None if since == 0 else _end(commits)
            return _arrange(table, window, first, columns)
        raise AssertionError("unreachable")

    def sources(self) -> list[str]:
        """The sources with at least one commit."""
        tails = (storage.Uri.parse(uri).relative_to(self.root) for uri in storage.list_files(self.root, suffix=".json"))
        return sorted({tail.split("/")[0] for tail in tails if "/_commits/" in tail})

    def data_version(self, sources: Iterable[str] | None = None) -> str:
        """The digest of the committed batches (id, rows, content) of these sources (all if None); compaction keeps it."""
        names = self.sources() if sources is None else sorted(sources)
        batches = {name: [[c.batch_id, c.rows, c.content] for c in self.commits(name)] for name in names}
        return sha256(canonical_json({name: found for name, found in batches.items() if found}).encode())

    def compact(self, source: str, *, sort_by: Sequence[str] = ()) -> None:
        """Rewrites all committed rows as one file per date, and removes the files that this replaces."""
        commits = self.commits(source)
        if not commits:
            return
        stem = sha256(canonical_json(["compact", commits[-1].chain, list(sort_by)]).encode())[:20]
        files = self._write(source, self.read(source), stem, sort_by)
        failpoint("events.compact.before_commit")
        number = len(self._numbered(source, "_compactions"))
        record = Compaction(number=number, commits=len(commits), files=files)
        with suppress(ConflictError):  # another compaction was first; ours adds nothing
            storage.create_bytes(self._number(source, "_compactions", number), record.to_json().encode())
        self._sweep(source)

    def _sweep(self, source: str) -> None:
        """Removes files that were committed and are no longer read, but no file that a writer is about to commit."""
        commits = self.commits(source)
        live = {file.path for file in self._live(source, commits, 0)}
        records = [_parse(Compaction, uri) for uri in self._numbered(source, "_compactions")]
        once = {file.path for files in [r.files for r in commits] + [r.files for r in records] for file in files}
        for path in sorted(once - live):
            storage.delete_file(storage.join(self.root, source, path))

    def _live(self, source: str, commits: Sequence[Commit], since: int) -> list[DataFile]:
        """The files to read: those of the newest compaction, and of the commits after it."""
        found = self._numbered(source, "_compactions")
        record = _parse(Compaction, found[-1]) if found else None
        start = 0
        files: list[DataFile] = []
        if record is not None and since < record.commits <= len(commits):
            start, files = record.commits, list(record.files)
        return files + [file for commit in commits[max(start, since) :] for file in commit.files]

    def _open(
        self, source: str, files: Sequence[DataFile], commits: Sequence[Commit], columns: Sequence[str] | None
    ) -> pa.Table:
        schema = _schema(commits, self._declared.get(source))
        wanted = set(schema.names) if columns is None else {*columns, "event_time", SEQUENCE}
        if unknown := sorted(wanted - set(schema.names)) if commits or source in self._declared else []:
            raise DataError(f"events of {source} have no column {unknown[0]!r}; {nearest(unknown[0], schema.names)}")
        schema = pa.schema([field for field in schema if field.name in wanted])

        def open_file(file: DataFile) -> pa.Table:
            return _read_file(storage.join(self.root, source, file.path), file, schema)

        with ThreadPoolExecutor(4) as pool:
            tables = list(pool.map(open_file, files))
        return pa.concat_tables([schema.empty_table(), *tables])

    def _write(self, source: str, table: pa.Table, stem: str, sort_by: Sequence[str]) -> tuple[DataFile, ...]:
        """Writes one file per event date. `table` has ingest_seq (or a row's place in its batch)."""
        ranks = [pc.rank(table.column(key), tiebreaker="dense").to_numpy() for key in reversed(sort_by)]
        times, places = ints(table.column("event_time")), ints(table.column(SEQUENCE))
        days = times // DAY
        order = np.lexsort((places, times, *ranks, days))
        table, days = table.take(pa.array(order)), days[order]
        edges = [*np.flatnonzero(np.diff(days, prepend=days[0] - 1)), len(days)] if len(days) else []
        files = []
        for start, end in pairwise(edges):
            path = f"date={np.datetime64(int(days[start]), 'D')}/{stem}.parquet"
            digest = storage.write_table(storage.join(self.root, source, path), table.slice(start, end - start))
            files.append(DataFile(path=path, rows=int(end - start), sha256=digest, base=0))
        return tuple(files)

    def _number(self, source: str, kind: str, number: int) -> str:
        return storage.join(self.root, source, kind, f"{number:08d}.json")

    def _numbered(self, source: str, kind: str, *, start: int = 0) -> list[str]:
        uris = storage.list_files(storage.join(self.root, source, kind), suffix=".json")
        return [uri for uri in uris if int(storage.Uri.parse(uri).stem) >= start]


def _parse(kind: type[Record], uri: str) -> Record:
    try:
        return kind.from_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise IntegrityError(f"{uri} can't be read: {error.errors()[0]['msg']}") from None


def _schema(commits: Sequence[Commit], declared: pa.Schema | None = None) -> pa.Schema:
    """The columns of all commits, older ones first, then declared ones that no commit has, then the log's own three."""
    names = {name: text for commit in commits for name, text in commit.columns}
    types = {str(kind): kind for kind in ARROW_TYPES.values()}
    for field in declared or ():
        names.setdefault(field.name, str(field.type))
    fields = [pa.field(name, types[text]) for name, text in names.items() if name not in SYSTEM]
    return pa.schema([*fields, ("event_time", TIME), ("created_time", TIME), (SEQUENCE, pa.int64())])


def _check_columns(source: str, table: pa.Table, commits: Sequence[Commit]) -> None:
    """Checks that a batch has times, no sequence of its own, and the types of the log."""
    if SEQUENCE in table.column_names:
        raise DataError(f"a batch of {source} has {SEQUENCE}, which the log gives")
    known = {str(kind) for kind in ARROW_TYPES.values()}
    before = {field.name: str(field.type) for field in _schema(commits)}
    for name in ("event_time", "created_time"):
        if name not in table.column_names or table.column(name).null_count:
            raise DataError(f"a batch of {source} needs {name} in every row")
    for field in table.schema:
        if str(field.type) not in known:
            raise DataError(f"{source}.{field.name} is {field.type}; the log holds {', '.join(sorted(known))}")
        if (found := before.get(field.name, str(field.type))) != str(field.type):
            raise DataError(f"{source}.{field.name} is {field.type} in this batch and {found} in the log")


def _overlaps(file: DataFile, window: Window) -> bool:
    day = int(np.datetime64(file.path.partition("/")[0].removeprefix("date="), "D").astype(np.int64)) * DAY
    start, end = window.span
    return day < end and day + DAY > start


def _read_file(uri: str, file: DataFile, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, null if the file is older than a column; a place becomes an ingest sequence."""
    data = storage.read_table(uri, digest=file.sha256)
    if data.num_rows != file.rows:
        raise IntegrityError(f"{uri} has {data.num_rows} rows, its commit says {file.rows}")
    columns = [
        data.column(field.name) if field.name in data.column_names else pa.nulls(data.num_rows, field.type)
        for field in schema
    ]
    table = pa.Table.from_arrays(columns, schema=schema)
    return put_column(table, SEQUENCE, pc.add(table.column(SEQUENCE), file.base))


def _end(commits: Sequence[Commit]) -> int:
    return commits[-1].base + commits[-1].rows if commits else 0


def _arrange(table: pa.Table, window: Window | None, first: int | None, columns: Sequence[str] | None) -> pa.Table:
    """Rows of the window, from sequence `first` on, sorted by (event_time, ingest_seq)."""
    times, places = ints(table.column("event_time")), ints(table.column(SEQUENCE))
    order = np.lexsort((places, times))
    if window is not None:
        start, end = window.span
        order = order[slice(*np.searchsorted(times[order], [start, end]))]
    if first:
        order = order[places[order] >= first]
    if columns is not None:
        table = table.select(list(columns))
    return table.combine_chunks().take(pa.array(order))
