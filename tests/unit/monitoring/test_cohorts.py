"""Which labels are known at which time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.data.events import EventLog
from evermodel.monitoring import cohorts
from tests.unit.monitoring.synthetic_drift import Shop, with_column

HOUR = 3_600_000_000


def test_a_row_matures_at_event_time_plus_delay_exactly(shop: Shop) -> None:
    rows = shop.serve(count=168)  # one an hour
    now = shop.window.start + timedelta(hours=5)
    assert cohorts.matured(rows, now=now, delay=HOUR).sum() == 5
    assert cohorts.matured(rows, now=now - timedelta(microseconds=1), delay=HOUR).sum() == 4
    masked = cohorts.mask_unmatured(shop.case, rows, now=now)
    assert masked["label:bought"].null_count == 163
    assert masked.drop_columns(["label:bought"]).equals(rows.drop_columns(["label:bought"]))
    assert cohorts.mask_unmatured(shop.case, rows, now=shop.window.end + timedelta(hours=1)) is rows


def test_the_maturity_curve_has_the_share_of_known_labels_by_age(shop: Shop) -> None:
    """Labels that take up to a day: of rows 12 hours old about half are known."""
    count, now = 1680, shop.window.end
    rows = shop.serve(count=count)
    age = (np.arange(count)[::-1] + 1) * 0.1  # hours
    hours = np.random.default_rng(0).uniform(0, 24, count)
    labels = pa.array(rows["label:bought"].to_numpy(), mask=hours > age)
    curve = cohorts.maturity_curve(
        with_column(rows, "label:bought", labels), "bought", now=now, points=28
    )  # 6 hours each
    assert [seconds for seconds, _ in curve] == [6 * 3600.0 * part for part in range(1, 29)]
    shares = [share for _, share in curve]
    assert np.allclose(shares[:4], [0.125, 0.375, 0.625, 0.875], atol=0.1) and shares[4:] == [1.0] * 24
    assert cohorts.maturity_curve(rows.slice(0, 0), "bought", now=now) == ()
    assert cohorts.maturity_curve(rows, "returned", now=now, points=1)[0][1] == 0.0


def test_late_labels_are_missing_labels_of_matured_rows(shop: Shop) -> None:
    rows = shop.serve(count=168)
    labels = pa.array(rows["label:bought"].to_numpy(), mask=np.arange(168) % 4 == 0)
    rows = with_column(rows, "label:bought", labels)
    assert cohorts.late_share(rows, "bought", now=shop.window.start, delay=HOUR) is None
    assert cohorts.late_share(rows, "bought", now=shop.window.start + timedelta(hours=4), delay=HOUR) == 0.25


def test_answers_get_the_labels_that_are_known_by_now(shop: Shop, tmp_path: Path) -> None:
    """The request log has no label: it arrives with the source's event of the same time and user, an hour later."""
    rows = shop.serve(count=168)
    log = EventLog(str(tmp_path / "events"))
    bought = pc.equal(rows["label:bought"], 1.0)
    events = rows.select(["event_time", "user", "age", "weight", "speed", "height", "town"])
    events = events.append_column("bought", bought).append_column("created_time", rows["event_time"])
    log.append("visits", events.slice(0, 160), batch_id="visits")  # the last 8 are missing
    answers = rows.drop_columns(["label:bought"]).append_column("classes", pa.array([["a"]] * 168))
    answers = answers.take(pa.array(np.random.default_rng(0).permutation(168)))
    served = cohorts.served_rows(shop.case, answers, log, now=shop.window.start + timedelta(hours=100)).sort_by(
        "event_time"
    )
    assert served["label:bought"].slice(0, 100).equals(rows["label:bought"].slice(0, 100))
    assert served["label:bought"].slice(100).null_count == 68
    everything = cohorts.served_rows(shop.case, answers, log, now=shop.window.end + timedelta(hours=2))
    assert everything["label:bought"].null_count == 8
    assert served.select(answers.column_names).equals(answers.sort_by("event_time"))
