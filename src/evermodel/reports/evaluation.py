"""An evaluation report for people: one HTML page that needs nothing else, or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from evermodel.records import EvaluationReport
from evermodel.reports import page
from evermodel.reports.charts import draw_evaluation
from evermodel.reports.page import Rows
from evermodel.use_case import METRICS

MEANINGS: Final = {
    "promote": "may become champion",
    "hold": "is kept but not promoted; the champion stays",
    "reject": "must not become champion",
}


def format_number(value: float | None) -> str:
    """Four digits after the point, or a dash if the value isn't known."""
    return "–" if value is None else f"{value:.4f}"


def metric_rows(report: EvaluationReport) -> Rows:
    """(metric, challenger, champion, difference) as texts. A positive difference always means that the challenger is
    better."""
    rows = []
    for name, value in report.metrics.items():
        other = report.champion_metrics.get(name)
        known = value is not None and other is not None
        sign = METRICS[name.rpartition(":")[2]].sign
        difference = f"{sign * (value - other):+.4f}" if known else "–"  # type: ignore[operator]
        mark = " (less is better)" if sign < 0 else ""
        rows.append((name + mark, format_number(value), format_number(other), difference))
    return rows


def check_rows(report: EvaluationReport) -> Rows:
    """(check, level, outcome, reason) of every check of the verdict, failed ones first."""
    checks = sorted(report.verdict.checks, key=lambda check: (check.passed, check.level != "enforce"))
    missed = {"enforce": "failed", "warn": "warning"}
    return [
        (check.name, check.level, "passed" if check.passed else missed[check.level], check.reason) for check in checks
    ]


def slice_rows(report: EvaluationReport) -> Rows:
    """(slice, value, rows, challenger, champion) as texts."""
    return [
        (part.slice, part.value, f"{part.rows:,}", format_number(part.metric), format_number(part.champion))
        for part in report.slices
    ]


def baseline_rows(report: EvaluationReport) -> Rows:
    """(baseline, its value in the gate's metric) as texts."""
    return [(name, format_number(value)) for name, value in report.baselines.items()]


def render_markdown(report: EvaluationReport) -> str:
    """The report as Markdown: verdict and reasons, then metrics, baselines, slices and checks."""
    metric = report.verdict_metric
    parts = [
        f"# Evaluation of {report.use_case} · {report.challenger}",
        f"**{report.verdict.word}**: the challenger {MEANINGS[report.verdict.word]}.",
        "\n".join(f"- {reason}" for reason in report.verdict.reasons),
        f"{report.rows:,} rows of {report.window}, none of them trained on; champion {report.champion or 'none yet'}; "
        f"{report.model_bytes:,} bytes packed; {report.milliseconds_per_row:.4f} ms a row.",
        f"## Metrics\n\n{markdown_table(('metric', 'challenger', 'champion', 'better by'), metric_rows(report))}",
    ]
    if report.baselines:
        parts.append(f"## Baselines\n\n{markdown_table(('baseline', metric), baseline_rows(report))}")
    if report.slices:
        heads = ("slice", "value", "rows", f"{metric}, challenger", "champion")
        parts.append(f"## Slices\n\n{markdown_table(heads, slice_rows(report))}")
    parts.append(f"## Checks\n\n{markdown_table(('check', 'level', 'outcome', 'reason'), check_rows(report))}")
    if report.calibration:
        bins = [(f"{score:.3f}", f"{rate:.3f}", f"{rows:,}") for score, rate, rows in report.calibration]
        parts.append(f"## Calibration\n\n{markdown_table(('mean score', 'observed rate', 'rows'), bins)}")
    return "\n\n".join(parts) + "\n"


def markdown_table(heads: Sequence[str], rows: Rows) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def render_html(report: EvaluationReport) -> str:
    """The report as one HTML page: no script, no other file, the pictures inside."""
    metric = report.verdict_metric
    verdict = report.verdict
    champion = ("champion ", page.code(report.champion)) if report.champion else ("no champion yet",)
    parts = [
        page.heading(
            f"{report.use_case}: challenger {report.challenger}",
            "against ",
            *champion,
            f", on {report.rows:,} rows of {report.window} that the challenger was not trained on",
        ),
        page.notice(verdict.word, f"The challenger {MEANINGS[verdict.word]}.", verdict.reasons),
        page.tiles(_facts(report)),
    ]
    drawn = draw_evaluation(report)
    if drawn:
        parts.append(page.section("Pictures", page.pictures(drawn)))
    tables = [
        ("Metrics", ("metric", "challenger", "champion", "better by"), metric_rows(report), 1),
        ("Baselines", ("baseline", metric), baseline_rows(report), 1),
        ("Slices", ("slice", "value", "rows", f"{metric}, challenger", "champion"), slice_rows(report), 2),
        ("Checks", ("check", "level", "outcome", "reason"), check_rows(report), None),
    ]
    parts += [
        page.section(title, page.table(heads, rows, numbers_from=numbers))
        for title, heads, rows, numbers in tables
        if rows
    ]
    return page.render_page(f"{report.use_case} · {report.challenger} · {verdict.word}", parts)


def _facts(report: EvaluationReport) -> list[tuple[str, str]]:
    metric = report.verdict_metric
    return [
        (metric, format_number(report.metrics.get(metric))),
        (f"{metric} of the champion", format_number(report.champion_metrics.get(metric))),
        ("rows evaluated", f"{report.rows:,}"),
        ("packed size", f"{report.model_bytes / 1024:,.1f} KiB"),
        ("time per row", f"{report.milliseconds_per_row * 1000:,.1f} µs"),
    ]
