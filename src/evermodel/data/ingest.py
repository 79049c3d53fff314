"""Ingestion: read a source, validate, leave out repeated rows, append. in = applied + duplicate + rejected.

Rejects are written before the commit, under the batch's name: a run that is cut short writes them again.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from evermodel import storage
from evermodel.columns import Flags, codes, ints
from evermodel.data.events import EventLog
from evermodel.data.readers import read_source, source_digest
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
    """Ingests the source's files as one batch, named by the digest of their content if `batch_id` is None.

    `window`: the part of a simulated source to ingest.
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
    """Puts a batch of raw rows into the log, once; its commit keeps `now`.

    Rejects go to `rejects_root` (if None: the log's `_rejects`), `<source>/<batch>.parquet`. If row numbers stand for
    times, a row's number is its place in this batch, so such a history comes as one batch.
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
        except ConflictError:  # another writer has added rows, so ours must be compared with the log again
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
    """The source of this name; DataError with the nearest name if there is none."""
    names = [source.name for source in use_case.sources]
    if source_name not in names:
        raise DataError(f"{use_case.name} has no source {source_name!r}; {nearest(source_name, names)}")
    return use_case.source(source_name)


def _first_seen(source: Source, log: EventLog, valid: pa.Table) -> Flags:
    """bool[n]: the row is neither in the log nor earlier in this batch, by the columns in `source.unique`.

    A row with a null in its key counts as new, because nothing shows that it is a repeat.
    """
    if not source.unique or not valid.num_rows:
        return np.ones(valid.num_rows, dtype=bool)
    names = list(source.unique)
    if unknown := [name for name in names if name not in valid.column_names]:
        raise DataError(f"{source.name}.unique: no column {unknown[0]!r}; {nearest(unknown[0], valid.column_names)}")
    both = valid.select(names)
    if log.commits(source.name):
        both = pa.concat_tables([log.read(source.name, columns=names), both])
    keys = {name: codes(both.column(name))[0] for name in names}
    without_key = np.any([code < 0 for code in keys.values()], axis=0)
    repeated = pd.DataFrame(keys).duplicated(keep="first").to_numpy()
    return np.asarray((~repeated | without_key)[both.num_rows - valid.num_rows :])


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
        delays = ints(applied.column("created_time")) - ints(applied.column("event_time"))
        late = int(np.sum(delays > source.lateness))
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
