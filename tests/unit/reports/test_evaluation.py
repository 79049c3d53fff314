"""An evaluation report as Markdown and as HTML holds every reason, figure and check."""

import re
from pathlib import Path

import pytest

from evermodel.records import EvaluationReport
from evermodel.reports.charts import draw_evaluation
from evermodel.reports.evaluation import metric_rows, render_html, render_markdown
from tests.unit.reports import evaluated


def test_markdown_has_every_reason_figure_and_check(report: EvaluationReport) -> None:
    text = render_markdown(report)
    assert f"**{report.verdict.word}**" in text
    for reason in report.verdict.reasons:
        assert f"- {reason}" in text
    for name in report.metrics:
        assert f"| {name}" in text
    for check in report.verdict.checks:
        assert f"| {check.name} | {check.level} |" in text
    assert "| shop | tiny | 6 | – | – |" in text
    columns = {line.count(" | ") for line in text.split("## Checks")[1].split("##")[0].splitlines() if line}
    assert len(columns) == 1, "every line of a table has as many cells"


def test_html_is_one_page_with_its_pictures_inside(report: EvaluationReport) -> None:
    page = render_html(report)
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert len(sources) == len(draw_evaluation(report)) == 5
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "<script" not in page
    assert report.challenger in page
    for reason in report.verdict.reasons:
        assert reason.split(" against")[0] in page


def test_html_escapes_what_comes_from_data(report: EvaluationReport) -> None:
    part = report.slices[0].model_copy(update={"value": "<img src=x onerror=alert(1)>"})
    page = render_html(report.model_copy(update={"slices": (part,)}))
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_markdown_cells_keep_their_bars(report: EvaluationReport) -> None:
    part = report.slices[0].model_copy(update={"value": "a|b"})
    assert "a\\|b" in render_markdown(report.model_copy(update={"slices": (part,)}))


def test_the_difference_is_positive_if_the_challenger_is_better(report: EvaluationReport) -> None:
    rows = {row[0]: row for row in metric_rows(report)}
    _, challenger, champion, better = rows["brier (less is better)"]
    assert float(better) == pytest.approx(float(champion) - float(challenger), abs=1e-4)
    assert rows["auc"][3] == "+0.0000"


def test_a_report_without_any_measurement_can_be_shown(tmp_path: Path) -> None:
    report = evaluated.failed_report(tmp_path)
    assert "raised RuntimeError: gone" in render_html(report)
    assert "| auc | – | – | – |" in render_markdown(report)
