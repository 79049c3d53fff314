"""Which answers can be judged yet: cohorts of served rows, their labels, and how these come in.

A *cohort* is the predictions of one window. It is *matured* once it is older than the label's delay; only then is a
missing label a fact about the row rather than about the clock. All functions are of tables; none reads a clock.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.clock import MICROS_PER_SECOND, micros
from evermodel.data.events import EventLog
from evermodel.records import Window
from evermodel.use_case import UseCase

Bools = NDArray[np.bool_]


def times(table: pa.Table) -> NDArray[np.int64]:
    """Event times in microseconds → int64[n]."""
    return np.asarray(pc.cast(table["event_time"], pa.int64()).to_numpy(), dtype=np.int64)


def in_window(table: pa.Table, window: Window) -> pa.Table:
    """The rows with start ≤ event time < end."""
    start, end = window.span
    at = times(table)
    return table.filter(pa.array((at >= start) & (at < end)))


def matured(served: pa.Table, *, now: datetime, delay: int) -> Bools:
    """bool[n]: event time + delay (microseconds) ≤ now."""
    ripe: Bools = times(served) + delay <= micros(now)
    return ripe


def labelled(served: pa.Table, label: str) -> Bools:
    """bool[n]: the label is known; no row's is where the table has no such column."""
    name = f"label:{label}"
    if name not in served.column_names:
        return np.zeros(served.num_rows, dtype=np.bool_)
    return np.asarray(pc.is_valid(served[name]).to_numpy(), dtype=np.bool_)


def mask_unmatured(use_case: UseCase, served: pa.Table, *, now: datetime) -> pa.Table:
    """The same rows with each label null where its delay isn't over at `now`: nobody could have known it."""
    for label in use_case.labels:
        name = f"label:{label.name}"
        if name not in served.column_names:
            continue
        ripe = matured(served, now=now, delay=label.delay)
        if not ripe.all():
            column = served[name]
            masked = pc.if_else(pa.array(ripe), column, pa.scalar(None, column.type))
            served = served.set_column(served.column_names.index(name), name, masked)
    return served


def served_rows(use_case: UseCase, answers: pa.Table, log: EventLog, *, now: datetime) -> pa.Table:
    """The request log's answers with the labels that are known at `now`: the table that `monitor` reads.

    answers: rows with features and scores, without labels. A label that is a column of the prediction source comes
    with the source's event of the same time and entity keys; before it has come, it is unknown.
    """
    from evermodel.data.labels import labels

    spine = _with_outcomes(use_case, answers, log)
    for name, values in labels(use_case, log, spine, now=now).items():
        column = f"label:{name}"
        if column in answers.column_names:
            answers = answers.drop_columns([column])
        answers = answers.append_column(column, values)
    return mask_unmatured(use_case, answers, now=now)


def _with_outcomes(use_case: UseCase, answers: pa.Table, log: EventLog) -> pa.Table:
    """The answers with the fields that hold column labels, joined on time and entity keys where they lack them."""
    source = use_case.prediction_source
    wanted = [label.field or label.name for label in use_case.labels if label.kind == "column"]
    missing = [name for name in wanted if name not in answers.column_names]
    if not missing or answers.num_rows == 0:
        return answers
    keys = ["event_time", *(entity.key for entity in use_case.entities if entity.key in answers.column_names)]
    events = log.read(source.name, columns=[*keys, *missing])
    events = events.group_by(keys, use_threads=False).aggregate([(name, "last") for name in missing])
    events = events.rename_columns({f"{name}_last": name for name in missing})
    asked = answers.select(keys).append_column("_position", pa.array(np.arange(answers.num_rows)))
    found = asked.join(events, keys=keys, join_type="left outer").sort_by("_position")
    for name in missing:
        answers = answers.append_column(name, found[name])
    return answers


def of_release(served: pa.Table, release: str | None) -> pa.Table:
    """The rows that a release answered; all where the table doesn't say, or no release is asked for."""
    if release is None or "release" not in served.column_names or served["release"].null_count == served.num_rows:
        return served
    return served.filter(pc.equal(served["release"], release))


def by_models(served: pa.Table) -> pa.Table:
    """Without fallback answers: they say nothing about a model, and their features are what was missing."""
    if "fallback" not in served.column_names:
        return served
    return served.filter(pc.invert(pc.fill_null(served["fallback"], False)))


def maturity_curve(served: pa.Table, label: str, *, now: datetime, points: int = 20) -> tuple[tuple[float, float], ...]:
    """((age in seconds, share of the labels of rows about that old that are known), …), youngest rows first.

    Rows are taken in equal parts by age; a window's end is younger than its start. Empty where there are no rows.
    """
    if served.num_rows == 0:
        return ()
    age = (micros(now) - times(served)) / MICROS_PER_SECOND
    order = np.argsort(age, kind="stable")
    known = labelled(served, label)[order].astype(np.float64)
    parts = np.array_split(np.arange(served.num_rows), min(points, served.num_rows))
    return tuple((float(age[order][part[-1]]), float(known[part].mean())) for part in parts)


def late_share(served: pa.Table, label: str, *, now: datetime, delay: int) -> float | None:
    """Share of matured rows whose label is still unknown; None where no row has matured."""
    ripe = matured(served, now=now, delay=delay)
    return float((ripe & ~labelled(served, label)).sum() / ripe.sum()) if ripe.any() else None
