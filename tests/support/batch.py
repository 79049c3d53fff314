"""Reads what a batch prediction has written."""

from __future__ import annotations

import pyarrow as pa

from evermodel import storage
from evermodel.serving.batch import MANIFEST, BatchManifest


def read_batch(out_uri: str) -> pa.Table:
    """The scored rows of a finished batch prediction, verified, in the order of row_id."""
    manifest = BatchManifest.from_json(storage.read_text(storage.join(out_uri, MANIFEST)))
    parts = [storage.read_table(part.uri, digest=part.digest) for part in manifest.parts]
    return pa.concat_tables(parts).sort_by("row_id")
