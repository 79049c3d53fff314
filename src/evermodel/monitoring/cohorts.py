"""Cohorts of served rows and their labels: which rows are matured, and how the labels arrive over time.

A *cohort* is the predictions of one window. A row is *matured* once it is older than the label's delay. Only then does
a missing label say something about the row. The functions work on tables; none reads a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.clock import MICROS_PER_SECOND, from_micros, micros
from evermodel.columns import ints, put_column, valid_mask
from evermodel.data.events import EventLog
from evermodel.records import MonitoringReport, Promotion, Release, Window
from evermodel.use_case import UseCase

Bools = NDArray[np.bool_]


def times(table: pa.Table) -> NDArray[np.int64]:
    """Event times in microseconds → int64[n]."""
    return ints(table["event_time"])


def matured(served: pa.Table, *, now: datetime, delay: int) -> Bools:
    """bool[n]: event time + delay (microseconds) ≤ now."""
    old_enough: Bools = times(served) + delay <= micros(now)
    return old_enough


def labelled(served: pa.Table, label: str) -> Bools:
    """bool[n]: the label is known; False for all rows if the table has no such column."""
    name = f"label:{label}"
    if name not in served.column_names:
        return np.zeros(served.num_rows, dtype=np.bool_)
    return valid_mask(served[name])


def mask_unmatured(use_case: UseCase, served: pa.Table, *, now: datetime) -> pa.Table:
    """The same rows; a label whose delay isn't over at `now` is null, because it couldn't be known."""
    for label in use_case.labels:
        name = f"label:{label.name}"
        if name not in served.column_names:
            continue
        keep = matured(served, now=now, delay=label.delay)
        if not keep.all():
            column = served[name]
            masked = pc.if_else(pa.array(keep), column, pa.scalar(None, column.type))
            served = put_column(served, name, masked)
    return served


def served_rows(use_case: UseCase, answers: pa.Table, log: EventLog, *, now: datetime) -> pa.Table:
    """The request log's answers with the labels that are known at `now`: the input of `monitor`.

    answers: rows with features and scores, without labels. A label that is a column of the prediction source is taken
    from the source's event with the same time and entity keys; it is null until that event arrives.
    """
    from evermodel.data.labels import labels

    spine = _with_label_columns(use_case, answers, log)
    for name, values in labels(use_case, log, spine, now=now).items():
        column = f"label:{name}"
        if column in answers.column_names:
            answers = answers.drop_columns([column])
        answers = answers.append_column(column, values)
    return mask_unmatured(use_case, answers, now=now)


def _with_label_columns(use_case: UseCase, answers: pa.Table, log: EventLog) -> pa.Table:
    """The answers with the fields of column labels; missing ones are joined on time and entity keys."""
    source = use_case.prediction_source
    fields = [label.field or label.name for label in use_case.labels if label.kind == "column"]
    missing = [name for name in fields if name not in answers.column_names]
    if not missing or answers.num_rows == 0:
        return answers
    keys = ["event_time", *(entity.key for entity in use_case.entities if entity.key in answers.column_names)]
    events = log.read(source.name, columns=[*keys, *missing])
    events = events.group_by(keys, use_threads=False).aggregate([(name, "last") for name in missing])
    events = events.rename_columns({f"{name}_last": name for name in missing})
    positions = answers.select(keys).append_column("_position", pa.array(np.arange(answers.num_rows)))
    joined = positions.join(events, keys=keys, join_type="left outer").sort_by("_position")
    for name in missing:
        answers = answers.append_column(name, joined[name])
    return answers


def answered_by(served: pa.Table, release: str | None) -> pa.Table:
    """The rows that a release answered; all rows if `release` is None, or if the table has no releases."""
    if release is None or "release" not in served.column_names or served["release"].null_count == served.num_rows:
        return served
    return served.filter(pc.equal(served["release"], release))


def without_fallbacks(served: pa.Table) -> pa.Table:
    """The rows that a model answered. A fallback answer says nothing about a model, and its features may be missing."""
    if "fallback" not in served.column_names:
        return served
    return served.filter(pc.invert(pc.fill_null(served["fallback"], False)))


def maturity_curve(served: pa.Table, label: str, *, now: datetime, points: int = 20) -> tuple[tuple[float, float], ...]:
    """((age in seconds, share of the rows of about that age whose label is known), …), youngest rows first.

    The rows are split by age into equal parts. Empty if there are no rows.
    """
    if served.num_rows == 0:
        return ()
    age = (micros(now) - times(served)) / MICROS_PER_SECOND
    order = np.argsort(age, kind="stable")
    has_label = labelled(served, label)[order].astype(np.float64)
    parts = np.array_split(np.arange(served.num_rows), min(points, served.num_rows))
    return tuple((float(age[order][part[-1]]), float(has_label[part].mean())) for part in parts)


def late_share(served: pa.Table, label: str, *, now: datetime, delay: int) -> float | None:
    """Share of matured rows whose label is still unknown; None if no row is matured."""
    rows = matured(served, now=now, delay=delay)
    return float((rows & ~labelled(served, label)).sum() / rows.sum()) if rows.any() else None


def newest_window(use_case: UseCase, *, now: datetime) -> Window:
    """The last whole monitoring window before `now`, on a grid of its length from the epoch."""
    length = use_case.monitoring.window_length
    end = micros(now) // length * length
    return Window(start=from_micros(end - length), end=from_micros(end))


def newly_matured(
    use_case: UseCase, reports: Sequence[MonitoringReport], newest: MonitoringReport, *, now: datetime
) -> list[Window]:
    """The earlier windows of the newest report's champion whose last labels arrived since the previous report.

    If labels take longer than a window, the performance of these windows is only known now.
    """
    maturity = timedelta(microseconds=use_case.maturity)
    earlier = [report for report in reports if report.window.end < newest.window.end]
    previous = max((report.window.end for report in earlier), default=now)
    own = [report.window for report in earlier if report.champion == newest.champion]
    return [window for window in own if previous < window.end + maturity <= now]


def answering_champion(promotions: Sequence[Promotion], releases: Collection[str]) -> Release:
    """The newest champion among the releases that answered a window; the present champion if none of them did.

    After a promotion, an earlier window must not be compared with a champion that did not answer it.
    """
    answered = (promotion.release for promotion in reversed(promotions) if promotion.release.id in releases)
    return next(answered, promotions[-1].release)
