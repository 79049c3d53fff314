"""A use case's whole history in memory: all feature rows in event-time order, with every label that became known.

The rows are computed once. They are point-in-time, so they don't depend on when they are computed; labels are masked to
what has matured at each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import storage
from evermodel.clock import from_micros, micros
from evermodel.columns import ints
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest
from evermodel.features import training_set
from evermodel.records import Window
from evermodel.use_case import UseCase

Progress = Callable[[str], None]


@dataclass(frozen=True)
class History:
    """All feature rows of a use case; `times`: their event times in microseconds; `end`: after the last event."""

    rows: pa.Table
    times: NDArray[np.int64]
    data_version: str
    end: datetime
    log: EventLog

    def between(self, window: Window) -> pa.Table:
        """The rows of a window."""
        low, high = np.searchsorted(self.times, window.span)
        return self.rows.slice(low, high - low)

    def count(self, window: Window) -> int:
        low, high = np.searchsorted(self.times, window.span)
        return int(high - low)

    def labels_known_until(self, use_case: UseCase) -> datetime:
        """Until when labels are known.

        A label that is a column was known when its row was written, even after the last event. A natural label is an
        event, so it is known no later than the last event.
        """
        columns_only = all(label.kind == "column" for label in use_case.labels)
        return self.end + timedelta(microseconds=use_case.maturity) if columns_only else self.end


def read_history(use_case: UseCase, *, data_dir: str, out: str, progress: Progress) -> History:
    """Ingest every source below `out` (rows of an earlier backtest are found there) and compute all rows."""
    log = EventLog(storage.join(out, "events"), use_case.sources)
    for source in use_case.sources:
        report = ingest(use_case, source.name, log, data_dir=data_dir, now=from_micros(0))
        progress(f"{source.name}: {report.applied} applied, {report.duplicate} duplicate, {report.rejected} rejected")
    newest = max(micros(pc.max(log.read(source.name)["event_time"]).as_py()) for source in use_case.sources)
    end = from_micros(newest + 1)
    # No label is masked yet, so `now` is after the last label.
    rows = training_set.build_rows(use_case, log, window=None, now=end + timedelta(microseconds=use_case.maturity))
    return History(rows, ints(rows["event_time"]), log.data_version(), end, log)
