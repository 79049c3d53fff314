"""Pictures: equal input gives equal SVG, and text from data is never read as markup."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from evermodel.records import Alert, DriftScore, EvaluationReport, MonitoringReport, Window
from evermodel.reports import charts
from tests.unit.evaluation import small
from tests.unit.reports import evaluated

MARKUP = r"$\frac$ & <b>"  # as mathematical markup it would raise
WINDOW = Window(start=small.START, end=small.NOW)


def monitoring_report(metric: str, **values: object) -> MonitoringReport:
    report = MonitoringReport(
        use_case="small",
        window=WINDOW,
        champion="c",
        rows=10,
        matured_rows=10,
        metric=metric,
        performance=0.5,
        reference=0.6,
        drift=(DriftScore(column=metric, method="psi", score=0.3, threshold=0.2, drifted=True),),
        alerts=(Alert(use_case="small", kind="performance", window=WINDOW, champion="c"),),
    )
    return report.model_copy(update=values)


def test_the_same_report_draws_the_same_pictures(report: EvaluationReport) -> None:
    part = report.model_copy(update={"slices": (), "roc": ()})
    assert charts.draw_evaluation(part) == charts.draw_evaluation(part)


def test_a_report_without_any_measurement_has_no_pictures(tmp_path: Path) -> None:
    assert charts.draw_evaluation(evaluated.failed_report(tmp_path)) == {}


def test_text_from_data_is_not_mathematical_markup(report: EvaluationReport) -> None:
    slices = tuple(part.model_copy(update={"value": MARKUP}) for part in report.slices)
    baselines = {MARKUP: 0.5}
    drawn = charts.draw_evaluation(report.model_copy(update={"slices": slices, "baselines": baselines}))
    pictures = [
        *drawn.values(),
        charts.draw_metric_history(MARKUP, [monitoring_report(MARKUP)], []),
        charts.draw_drift([monitoring_report(MARKUP)]),
    ]
    for picture in pictures:
        assert ElementTree.fromstring(picture).tag.endswith("svg")


def test_a_window_without_figures_is_drawn() -> None:
    reports = [monitoring_report("auc"), monitoring_report("auc", performance=None, reference=None, drift=())]
    assert "<svg" in charts.draw_metric_history("auc", reports, [])
    assert "<svg" in charts.draw_drift(reports)
    assert "<svg" in charts.draw_drift([monitoring_report("auc", drift=())])


@pytest.mark.parametrize("total", [0.75, None])
def test_a_backtest_is_one_png(total: float | None, tmp_path: Path) -> None:
    day = "2026-01-0{}T00:00:00Z"
    windows = [{"start": day.format(n), "metric": value} for n, value in ((1, 0.7), (2, None), (3, 0.8))]
    result = {
        "use_case": MARKUP,
        "metric": "auc",
        "policies": [
            {
                "policy": policy,
                "windows": windows,
                "alerts": [{"kind": "performance", "end": day.format(2)}],
                "retrains": [{"at": day.format(2), "verdict": "hold"}],
                "totals": {"metric": total, "rows_trained": 1200},
            }
            for policy in charts.POLICY_COLORS
        ],
    }
    charts.plot_backtest(result, tmp_path / "backtest.png")
    assert (tmp_path / "backtest.png").read_bytes().startswith(b"\x89PNG")
