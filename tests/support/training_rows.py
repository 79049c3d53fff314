"""Training rows that a test made by hand."""

from __future__ import annotations

import pyarrow as pa

from evermodel.features.training_set import TrainingRows
from evermodel.records import Window


def make_training_rows(
    train: pa.Table, gate: pa.Table, *, window: Window, rehearsal: pa.Table | None = None
) -> TrainingRows:
    """Rows of one window, with digests of zeros; the cursor is the window's end."""
    return TrainingRows(
        train=train,
        gate=gate,
        rehearsal=rehearsal,
        windows=(window,),
        gate_window=window,
        rehearsal_window=None,
        row_digest="0" * 64,
        cursor=window.end,
        data_version="0" * 64,
    )
