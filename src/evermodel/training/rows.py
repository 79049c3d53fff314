"""Which of a round's rows are trained on, validated on, and counted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.data.splits import newest_share
from evermodel.training.task import Task


def together(train: pa.Table, rehearsal: pa.Table | None) -> pa.Table:
    """Fresh rows, then the older ones that are rehearsed."""
    return train if rehearsal is None else pa.concat_tables([train, rehearsal], promote_options="permissive")


def split_newest(rows: pa.Table, share: float) -> tuple[pa.Table, pa.Table]:
    """(older, newest share) by event time."""
    times = rows.column("event_time").cast(pa.int64()).to_numpy()
    newest = times >= newest_share(times, share)
    return rows.filter(pa.array(~newest)), rows.filter(pa.array(newest))


def labelled_ids(rows: pa.Table, task: Task) -> NDArray[np.int64]:
    """The ids of the rows that the task learns from."""
    ids: NDArray[np.int64] = rows.column("row_id").to_numpy()[task.targets(rows).rows]
    return ids


def count_labelled(rows: pa.Table | None, task: Task) -> int:
    return 0 if rows is None else len(task.targets(rows).rows)
