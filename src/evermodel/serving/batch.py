"""Batch prediction with Ray Data: Parquet rows in, Parquet scores out, a manifest written last.

Rows are the rows table of training sets, features included. Each actor opens the release once. A part is named by its
content, so a task that Ray runs twice writes it twice over; only what the manifest lists counts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evermodel import storage
from evermodel.errors import IntegrityError
from evermodel.records import Artifact, Ref, Release, sha256
from evermodel.serving.answers import ClassSelection
from evermodel.use_case import UseCase

MANIFEST = "manifest.json"


class BatchManifest(Artifact):
    """What a batch prediction left: rows in = rows out, and every part with its digest."""

    use_case: str
    release: str
    rows_uri: str
    rows_digest: str | None = None  # of the rows' file, where whoever asked has said it
    rows_in: int
    rows_out: int
    parts: tuple[Ref, ...]


class ScoreRows:
    """A Ray Data actor: opens the release once, writes each batch with its scores, answers where it lies."""

    def __init__(self, *, use_case: str, release: str, out_uri: str, device: str) -> None:
        from evermodel.bundle import open_release

        self._use_case, self._out = UseCase.model_validate_json(use_case), out_uri
        self._release = open_release(Release.from_json(release), device=device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        table = scored(self._use_case, self._release, rows)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        digest = sha256(data)
        uri = storage.join(self._out, "parts", f"{digest[:32]}.parquet")
        storage.write_bytes(uri, data)
        return pa.table({"uri": [uri], "digest": [digest], "rows": pa.array([table.num_rows], pa.int64())})


def scored(use_case: UseCase, release: Any, rows: pa.Table) -> pa.Table:
    """Rows + `score:<objective>`, `score` (of a category: `classes`, the ten best) and `release`."""
    from evermodel.serving.predictor import combine

    scores: Mapping[str, Any] = release.scores(rows)
    total = combine(scores, release.release.weights)
    for name, values in scores.items():
        best = values.max(axis=1) if np.ndim(values) == 2 else values
        rows = rows.append_column(f"score:{name}", pa.array(best, pa.float64()))
    if total.ndim == 2:
        classes = next(iter(release.bundles.values())).classes
        top = ClassSelection(None, 10)
        named = [[classes[i] for i in top.best(values, classes)] for values in total]
        rows = rows.append_column("classes", pa.array(named, pa.list_(pa.string())))
    else:
        rows = rows.append_column("score", pa.array(total, pa.float64()))
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
    """Score the Parquet rows at `rows_uri` (file or folder) into `out_uri`; skipped where its manifest says it is done.

    `concurrency` actors of `num_gpus` GPUs each, on which the models answer (0: on a CPU). Uses the Ray that is running,
    the one that RAY_ADDRESS names, or else starts a local one. IntegrityError, and no manifest, unless every row came out.
    """
    target = storage.join(out_uri, MANIFEST)
    if storage.exists(target):
        done = BatchManifest.from_json(storage.read_text(target))
        if (done.release, done.rows_uri, done.rows_digest) == (release.id, rows_uri, rows_digest):
            return done
    rows_in = storage.count_rows(rows_uri)
    parts, rows_out = _run(use_case, release, rows_uri, out_uri, batch_size, num_gpus, concurrency)
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


def read_batch(out_uri: str) -> pa.Table:
    """The scored rows that a finished batch prediction left, verified; by row_id where there is one."""
    manifest = BatchManifest.from_json(storage.read_text(storage.join(out_uri, MANIFEST)))
    table = pa.concat_tables([storage.read_table(part.uri, digest=part.digest) for part in manifest.parts])
    return table.sort_by("row_id") if "row_id" in table.column_names else table


def _run(
    use_case: UseCase, release: Release, rows_uri: str, out_uri: str, batch_size: int, num_gpus: float, concurrency: int
) -> tuple[tuple[Ref, ...], int]:
    import ray
    import ray.data

    for name in ("ray", "ray.data"):  # what Ray says of itself is no answer, and not for whoever reads ours in a pipe
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():  # an address is always given: without one Ray takes another's that is on the machine
        address = os.environ.get("RAY_ADDRESS") or "local"
        dashboard = False if address == "local" else None  # only one of our own can be without
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # less than a CPU each: reading and scoring must fit beside each other, and beside Serve, on two
    filesystem, key = storage.filesystem(rows_uri)
    rows = ray.data.read_parquet(key, filesystem=filesystem, num_cpus=0.25)
    written = rows.map_batches(
        ScoreRows,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=concurrency),
        num_cpus=0.5,
        num_gpus=num_gpus or None,
        fn_constructor_kwargs={
            "use_case": use_case.model_dump_json(),
            "release": release.to_json(),
            "out_uri": out_uri,
            "device": "cuda" if num_gpus else "cpu",
        },
    ).take_all()
    parts = tuple(Ref(uri=part["uri"], digest=part["digest"]) for part in sorted(written, key=lambda part: part["uri"]))
    return parts, sum(int(part["rows"]) for part in written)
