"""The chart's layout: positions of values, promotions and alerts, computed by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from evermodel.control.ui import chart
from evermodel.records import Alert, MonitoringReport, Promotion, Release, Window
from tests.support.ledger_history import NAME

START = datetime(2026, 1, 19, tzinfo=UTC)
HOUR = timedelta(hours=1)


def report(n: int, value: float | None, *, champion: str = "a", estimate: float | None = None) -> MonitoringReport:
    window = Window(start=START + n * 24 * HOUR, end=START + (n + 1) * 24 * HOUR)
    return MonitoringReport(
        use_case=NAME,
        window=window,
        champion=champion,
        rows=10,
        matured_rows=5,
        metric="ndcg",
        performance=value,
        estimate=estimate,
        reference=0.6,
    )


def promotion(at: datetime, action: str = "promote") -> Promotion:
    release = Release(use_case=NAME, bundles=(), weights={}, cursor=START, created=START, home="nowhere")
    return Promotion(
        use_case=NAME,
        version=2,
        release=release,
        previous=None,
        action=action,  # type: ignore[arg-type]
        verdict=None,
        reason="drift",
        actor="anna",
        at=at,
        chain="",
    )


def test_without_a_value_there_is_no_chart() -> None:
    assert chart.lay_out([], [], []) is None
    assert chart.lay_out([report(0, None)], [promotion(START)], []) is None


def test_a_point_is_at_the_middle_of_its_window() -> None:
    laid_out = chart.lay_out([report(0, 0.5), report(1, 0.7)], [], [])
    assert laid_out is not None
    first, second = laid_out.lines[0].points
    plot = chart.WIDTH - chart.LEFT - chart.RIGHT
    assert (first.x, second.x) == (chart.LEFT + plot / 4, chart.LEFT + plot * 3 / 4)
    assert laid_out.top < second.y < first.y < laid_out.bottom
    heights = {text: y for y, text in laid_out.y_ticks}
    assert first.y == pytest.approx(heights["0.5"], abs=0.2) or "0.5" not in heights
    assert laid_out.lines[0].reference == pytest.approx((first.y + second.y) / 2, abs=0.2)


def test_each_champion_has_its_own_line_and_an_estimate_is_marked() -> None:
    shown = [report(0, 0.5), report(1, 0.6, champion="b"), report(2, None, champion="b", estimate=0.65)]
    laid_out = chart.lay_out(shown, [], [])
    assert laid_out is not None
    assert [(line.champion, len(line.points)) for line in laid_out.lines] == [("a", 1), ("b", 2)]
    assert [point.estimated for line in laid_out.lines for point in line.points] == [False, False, True]
    assert "estimated ndcg 0.65, 5 of 10 rows matured" in laid_out.lines[1].points[1].title


def test_promotions_and_alerts_are_at_their_times() -> None:
    windows = [report(n, 0.5) for n in range(4)]
    alerts = [
        Alert(use_case=NAME, kind=kind, window=windows[1].window, champion="a", diagnosis="concept_shift")
        for kind in ("performance", "feature_drift")
    ]
    rows = [promotion(START - HOUR), promotion(START + 48 * HOUR, "rollback")]
    laid_out = chart.lay_out(windows, rows, alerts)  # type: ignore[arg-type]
    assert laid_out is not None
    plot = chart.WIDTH - chart.LEFT - chart.RIGHT
    assert [(marker.kind, marker.x) for marker in laid_out.promotions] == [("rollback", chart.LEFT + plot / 2)]
    (marker,) = laid_out.alerts
    assert (marker.x, marker.width) == (chart.LEFT + plot / 4, plot / 4)
    assert "feature drift, performance; diagnosis concept shift" in marker.title


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.0, 0.0), (0.7312, 0.7314), (-3.0, 12000.0), (1e-6, 3e-6)])
def test_the_value_scale_is_round_and_contains_every_value(low: float, high: float) -> None:
    bottom, top, step = chart.value_scale(low, high)
    assert bottom < low or (low == high and bottom <= low)
    assert high <= top and 2 <= round((top - bottom) / step) <= 8


@pytest.mark.parametrize("days", [0.01, 1, 3, 14, 90, 400, 4000])
def test_the_time_axis_has_a_handful_of_round_times(days: float) -> None:
    times = chart.time_ticks(START + HOUR / 7, START + days * 24 * HOUR)
    assert len(times) <= 10
    assert all(at.second == 0 for at, _ in times)
