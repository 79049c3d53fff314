"""Monitoring of a window: what raises an alert, with which numbers, and the real drift of electricity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from evermodel.clock import from_micros, micros
from evermodel.monitoring.cohorts import mask_unmatured
from evermodel.monitoring.drift import Reference, fit_reference
from evermodel.monitoring.monitor import monitor
from evermodel.records import MonitoringReport, Window
from evermodel.use_case import UseCase
from tests.support.scores import binary
from tests.unit.monitoring.synthetic_drift import Distribution, Shop, with_column

OPENED = 17_424  # the row at which the interstate market opens
COLUMNS = ("day", "period", "nswdemand", "vicprice", "vicdemand", "transfer")


def test_a_report_survives_json_and_a_repeated_call_gives_the_same(shop: Shop) -> None:
    report = shop.monitor(shop.serve(Distribution(shift=0.7)))
    assert MonitoringReport.from_json(report.to_json()) == report
    assert shop.monitor(shop.serve(Distribution(shift=0.7))).to_json() == report.to_json()


def test_an_alert_has_the_columns_scores_and_threshold(shop: Shop) -> None:
    report = shop.monitor(shop.serve(Distribution(shift=0.7)))
    alert = next(alert for alert in report.alerts if alert.kind == "feature_drift")
    scores = {item.column: item.score for item in report.drift}
    assert set(alert.evidence["columns"]) == {"weight", "speed"}
    assert all(alert.evidence["columns"][name] == scores[name] for name in ("weight", "speed"))
    assert (alert.evidence["threshold"], alert.evidence["known"], alert.evidence["rows"]) == (0.1, 5, 336)
    assert alert.champion == "c" and alert.window == shop.window


def test_drift_of_fewer_columns_than_the_share_is_no_alert(shop: Shop) -> None:
    """Two of five columns moved: an alert at a share of 0.3, none at 0.5."""
    drift = shop.case.monitoring.drift.model_copy(update={"share": 0.5})
    kinds = set(shop.with_settings(drift=drift).diagnoses(shop.serve(Distribution(shift=0.7))))
    assert "feature_drift" in shop.diagnoses(shop.serve(Distribution(shift=0.7))) and "feature_drift" not in kinds


def test_a_performance_alert_holds_the_metric_and_the_reference(shop: Shop) -> None:
    report = shop.monitor(shop.serve(Distribution(slope=-1.0)))
    alert = next(alert for alert in report.alerts if alert.kind == "performance")
    assert alert.evidence["metric"] == "accuracy"
    assert alert.evidence["value"] == report.performance and alert.evidence["reference"] == report.reference
    assert report.performance is not None and report.performance < 0.4
    assert report.estimate is not None and report.estimate > 0.7  # the estimate can't see a concept shift


def test_fallbacks_and_other_releases_do_not_count_for_the_champion(shop: Shop) -> None:
    """Half of the rows have answers of another release, which is wrong; 30 more are fallbacks without features."""
    good, bad = shop.serve(seed=1), shop.serve(Distribution(slope=-1.0), seed=2)
    fallbacks = shop.serve(count=30, seed=3)
    for name in ("age", "weight", "speed", "height", "town"):
        fallbacks = with_column(fallbacks, name, pa.nulls(30, fallbacks.schema.field(name).type))
    parts = [
        part.append_column("release", pa.array([name] * part.num_rows)).append_column(
            "fallback", pa.array([fallback] * part.num_rows)
        )
        for part, name, fallback in ((good, "c", False), (bad, "d", False), (fallbacks, "c", True))
    ]
    rows = pa.concat_tables(parts).sort_by("event_time")
    report, alone = shop.monitor(rows), shop.monitor(good)
    assert report.alerts == () and report.performance == alone.performance and report.matured_rows == 336
    assert report.rows == 702 and report.quality["fallback_share"] == pytest.approx(30 / 702)
    scores = [item.score for item in report.drift if item.column == "score:buy"]
    assert scores == [item.score for item in alone.drift if item.column == "score:buy"]


def test_rows_without_an_event_are_no_duplicates(shop: Shop) -> None:
    assert shop.monitor(with_column(shop.serve(), "row_id", pa.nulls(336, pa.int64()))).alerts == ()


def test_an_empty_window_is_unknown(shop: Shop) -> None:
    report = shop.monitor(shop.serve().slice(0, 0))
    assert report.rows == 0 and report.alerts == () and report.maturity == ()
    assert report.business == {"sales": 0.0, "wasted": 0.0}


@pytest.fixture(scope="module")
def prices(shared_data: Path, electricity: UseCase) -> pa.Table:
    """The history, with answers of a champion that predicts UP if demand is above the mean of that half hour."""
    table = pd.read_csv(shared_data / "elec2" / "electricity.csv.gz")
    usual = table.iloc[:OPENED].groupby("period")["nswdemand"].mean()
    margin = table["nswdemand"] - usual.loc[table["period"]].to_numpy()
    score = 1 / (1 + np.exp(-10 * margin.to_numpy()))
    start = micros(datetime(1996, 5, 7, tzinfo=UTC))
    times = pa.array(start + np.arange(len(table)) * 1_800_000_000).cast(pa.timestamp("us", tz="UTC"))
    columns = {name: table[name].to_numpy().astype(np.float64) for name in COLUMNS}
    label = (table["class"] == "UP").to_numpy().astype(np.float64)
    rows = {"row_id": np.arange(len(table)), "event_time": times, **columns, "label:up": label}
    return pa.table(rows | {"score": score, "score:up": score})


def monitor_week(case: UseCase, prices: pa.Table, reference: Reference, start: int) -> MonitoringReport:
    rows = prices.slice(start, 336)
    first = rows["event_time"][0].as_py()
    window = Window(start=first, end=first + timedelta(days=7))
    served = mask_unmatured(case, rows, now=window.end)
    return monitor(case, served, reference, window=window, now=window.end, champion="first")


@pytest.fixture(scope="module")
def opened(electricity: UseCase, prices: pa.Table) -> Reference:
    rows = prices.slice(0, OPENED)
    window = Window(start=rows["event_time"][0].as_py(), end=from_micros(micros(rows["event_time"][-1].as_py()) + 1))
    return fit_reference(electricity, rows, {"up": binary(rows["score"].to_numpy())}, performance=None, window=window)


def test_electricitys_market_opens(electricity: UseCase, prices: pa.Table, opened: Reference) -> None:
    """Three constants start to vary at row 17,424: a covariate shift from the first window on, on 3 or 4 columns."""
    for number in range(5):
        report = monitor_week(electricity, prices, opened, OPENED + number * 336)
        alerts = {alert.kind: alert for alert in report.alerts}
        assert alerts["feature_drift"].diagnosis == "covariate_shift"
        columns = alerts["feature_drift"].evidence["columns"]
        assert {"vicprice", "vicdemand", "transfer"} <= set(columns) <= {*COLUMNS} - {"day", "period"}
        assert columns["vicprice"] == 1.0
        assert "data_quality" not in alerts


def test_electricitys_windows_of_the_year_before_dont_alert_on_their_inputs(
    electricity: UseCase, prices: pa.Table, opened: Reference
) -> None:
    """Every week has the same days and half hours; demand alone has its seasons, and one column of six is no alert."""
    for start in range(0, OPENED - 336, 336):
        report = monitor_week(electricity, prices, opened, start)
        assert {alert.kind for alert in report.alerts} & {"feature_drift", "data_quality"} == set()
        drifted = {item.column for item in report.drift if item.drifted}
        assert not drifted & {"day", "period", "vicprice", "vicdemand", "transfer"}
