"""A source into the event log: read, validate, leave out what was there, append. in = applied + duplicate + rejected.

The rejects are written before the commit and under the batch's name: a run that is cut short writes them again.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from evermodel import storage
from evermodel.data.events import EventLog
from evermodel.data.readers import read_source, source_digest
from evermodel.data.tables import int64
from evermodel.data.validation import validate
from evermodel.errors import ConflictError, DataError, nearest
from evermodel.failpoint import failpoint
from evermodel.records import IngestReport, Window, sha256
from evermodel.use_case import Source, UseCase


def ingest(
    use_case: UseCase,
    source_name: str,
    log: EventLog,
    *,
    data_dir: str | Path,
    now: datetime,
    batch_id: str | None = None,
    rejects_root: str | None = None,
    window: Window | None = None,
) -> IngestReport:
    """Read the source's files as one batch, named by the digest of their content where it has no other name.

    `window`: what of a simulated source is ingested.
    """
    source = declared(use_case, source_name)
    raw = read_source(use_case, source, data_dir, window=window)
    batch_id = batch_id or source_digest(source, raw, data_dir)
    return ingest_table(use_case, source_name, raw, log, batch_id=batch_id, now=now, rejects_root=rejects_root)


def ingest_table(
    use_case: UseCase,
    source_name: str,
    raw: pa.Table,
    log: EventLog,
    *,
    batch_id: str,
    now: datetime,
    rejects_root: str | None = None,
) -> IngestReport:
    """Put a batch of raw rows into the log, once; `now` is kept in its commit.

    Rejects go to `rejects_root` (absent: the log's `_rejects`), `<source>/<batch>.parquet`. Where row numbers stand
    for times, the number is the row's in this batch: such a history comes as one batch.
    """
    source = declared(use_case, source_name)
    if log.find(source_name, batch_id) is not None:
        return _report(source, log, batch_id, rows=raw.num_rows, duplicate=raw.num_rows)
    valid, rejects = validate(use_case, source, raw)
    rejects_uri = None
    if rejects.num_rows:
        folder = rejects_root or storage.join(log.root, "_rejects")
        rejects_uri = storage.join(folder, source_name, f"{_file_name(batch_id)}.parquet")
        storage.write_table(rejects_uri, rejects)
        failpoint("ingest.rejects_written")
    sort_by = [e.key for e in use_case.entities if e.key in valid.column_names]
    while True:
        commits = log.commits(source_name)
        fresh = valid.filter(pa.array(_first_seen(source, log, valid)))
        try:
            _, new = log.append(source_name, fresh, batch_id=batch_id, sort_by=sort_by, after=len(commits), at=now)
            break
        except ConflictError:  # another writer's rows are there now: which of ours are duplicates is to be seen again
            continue
    if not new:
        return _report(source, log, batch_id, rows=raw.num_rows, duplicate=raw.num_rows)
    return _report(
        source,
        log,
        batch_id,
        rows=raw.num_rows,
        applied=fresh,
        duplicate=valid.num_rows - fresh.num_rows,
        rejects=rejects,
        rejects_uri=rejects_uri,
    )


def declared(use_case: UseCase, source_name: str) -> Source:
    """The source of this name; DataError with the nearest one where there is none."""
    names = [source.name for source in use_case.sources]
    if source_name not in names:
        raise DataError(f"{use_case.name} has no source {source_name!r}; {nearest(source_name, names)}")
    return use_case.source(source_name)


def _first_seen(source: Source, log: EventLog, valid: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows are neither in the log nor earlier in this batch, by the columns in `source.unique`.

    A row without a key (a null in it) can't be told to be a repeat, so it is none.
    """
    if not source.unique or not valid.num_rows:
        return np.ones(valid.num_rows, dtype=bool)
    names = list(source.unique)
    if unknown := [name for name in names if name not in valid.column_names]:
        raise DataError(f"{source.name}.unique: no column {unknown[0]!r}; {nearest(unknown[0], valid.column_names)}")
    both = valid.select(names)
    if log.commits(source.name):
        both = pa.concat_tables([log.read(source.name, columns=names), both])
    codes = {name: _codes(both.column(name)) for name in names}
    nameless = np.any([code < 0 for code in codes.values()], axis=0)
    repeated = pd.DataFrame(codes).duplicated(keep="first").to_numpy()
    return np.asarray((~repeated | nameless)[both.num_rows - valid.num_rows :])


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """One number for each value, −1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _file_name(batch_id: str) -> str:
    return batch_id if re.fullmatch(r"[\w][\w.=-]{0,99}", batch_id) else sha256(batch_id.encode())[:20]


def _report(
    source: Source,
    log: EventLog,
    batch_id: str,
    *,
    rows: int,
    applied: pa.Table | None = None,
    duplicate: int,
    rejects: pa.Table | None = None,
    rejects_uri: str | None = None,
) -> IngestReport:
    reasons: Counter[str] = Counter()
    if rejects is not None:
        pairs = zip(rejects.column("field").to_pylist(), rejects.column("reason").to_pylist(), strict=True)
        reasons.update(f"{field}: {reason}" for field, reason in pairs)
    late = 0
    if applied is not None:
        late = int(
            np.sum(int64(applied.column("created_time")) - int64(applied.column("event_time")) > source.lateness)
        )
    return IngestReport(
        source=source.name,
        batch_id=batch_id,
        rows_in=rows,
        applied=applied.num_rows if applied is not None else 0,
        duplicate=duplicate,
        rejected=rejects.num_rows if rejects is not None else 0,
        late=late,
        reject_reasons=dict(sorted(reasons.items())),
        rejects_uri=rejects_uri,
        data_version=log.data_version(),
    )
