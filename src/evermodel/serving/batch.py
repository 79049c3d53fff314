"""Batch prediction with Ray Data: Parquet rows in, Parquet scores out, a manifest written last.

Rows are the rows table of training sets, features included. Each actor opens the release once. A part is named by its
content, so a task that Ray runs twice writes the same part again. Only the parts that the manifest lists count.
"""

from __future__ import annotations

import logging
import os

import pyarrow as pa
import pyarrow.parquet as pq

from evermodel import storage
from evermodel.errors import IntegrityError
from evermodel.records import Artifact, Ref, Release, sha256
from evermodel.scores import ServableRelease, combine
from evermodel.serving.predictions import TOP_TEN
from evermodel.use_case import UseCase

MANIFEST = "manifest.json"


class BatchManifest(Artifact):
    """The result of a batch prediction: as many rows out as in, and every part with its digest."""

    use_case: str
    release: str
    rows_uri: str
    rows_digest: str | None = None  # of the rows' file, if the caller gave it
    rows_in: int
    rows_out: int
    parts: tuple[Ref, ...]


class ScoringActor:
    """A Ray Data actor: opens the release once, writes each batch with its scores, returns the part's URI and digest."""

    def __init__(self, *, release: str, out_uri: str, device: str) -> None:
        from evermodel.bundle import open_release

        self._out = out_uri
        self._release = open_release(Release.from_json(release), device=device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        table = score_rows(self._release, rows)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        digest = sha256(data)
        uri = storage.join(self._out, "parts", f"{digest[:32]}.parquet")
        storage.write_bytes(uri, data)
        return pa.table({"uri": [uri], "digest": [digest], "rows": pa.array([table.num_rows], pa.int64())})


def score_rows(release: ServableRelease, rows: pa.Table) -> pa.Table:
    """Rows + `score:<objective>`, `score` (for a category: `classes`, the ten best) and `release`."""
    scores = release.scores(rows)
    total = combine(scores, release.release.weights)
    for name, part in scores.items():
        rows = rows.append_column(f"score:{name}", pa.array(part.best, pa.float64()))
    if total.is_category:
        names = [[total.classes[i] for i in TOP_TEN.rank(values, total.classes)] for values in total.values]
        rows = rows.append_column("classes", pa.array(names, pa.list_(pa.string())))
    else:
        rows = rows.append_column("score", pa.array(total.values, pa.float64()))
    return rows.append_column("release", pa.array([release.release.id] * rows.num_rows))


def predict_batch(
    use_case: UseCase,
    release: Release,
    rows_uri: str,
    out_uri: str,
    *,
    batch_size: int,
    rows_digest: str | None = None,
    num_gpus: float = 0,
    concurrency: int = 1,
) -> BatchManifest:
    """Score the Parquet rows at `rows_uri` (file or folder) into `out_uri`; skipped if its manifest says it is done.

    `concurrency` actors with `num_gpus` GPUs each (0: on a CPU). Uses the running Ray, else the one that RAY_ADDRESS
    names, else starts a local one. IntegrityError, and no manifest, unless every row was scored.
    """
    target = storage.join(out_uri, MANIFEST)
    if storage.exists(target):
        done = BatchManifest.from_json(storage.read_text(target))
        if (done.release, done.rows_uri, done.rows_digest) == (release.id, rows_uri, rows_digest):
            return done
    rows_in = storage.count_rows(rows_uri)
    parts, rows_out = _run(release, rows_uri, out_uri, batch_size, num_gpus, concurrency)
    if rows_in != rows_out:
        raise IntegrityError(f"{rows_uri}: {rows_in} rows in, {rows_out} out; {out_uri} has no manifest")
    manifest = BatchManifest(
        use_case=use_case.name,
        release=release.id,
        rows_uri=rows_uri,
        rows_digest=rows_digest,
        rows_in=rows_in,
        rows_out=rows_out,
        parts=parts,
    )
    storage.write_text(target, manifest.to_json())
    return manifest


def _run(
    release: Release, rows_uri: str, out_uri: str, batch_size: int, num_gpus: float, concurrency: int
) -> tuple[tuple[Ref, ...], int]:
    import ray
    import ray.data

    for name in ("ray", "ray.data"):  # Ray's own messages must not mix with our output in a pipe
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():  # always with an address: without one Ray connects to any Ray on the machine
        address = os.environ.get("RAY_ADDRESS") or "local"
        dashboard = False if address == "local" else None  # only for a local Ray may it be off
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # less than a CPU each: reading, scoring and Serve must fit on two CPUs together
    filesystem, key = storage.filesystem(rows_uri)
    rows = ray.data.read_parquet(key, filesystem=filesystem, num_cpus=0.25)
    written = rows.map_batches(
        ScoringActor,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=concurrency),
        num_cpus=0.5,
        num_gpus=num_gpus or None,
        fn_constructor_kwargs={
            "release": release.to_json(),
            "out_uri": out_uri,
            "device": "cuda" if num_gpus else "cpu",
        },
    ).take_all()
    parts = tuple(Ref(uri=part["uri"], digest=part["digest"]) for part in sorted(written, key=lambda part: part["uri"]))
    return parts, sum(int(part["rows"]) for part in written)
