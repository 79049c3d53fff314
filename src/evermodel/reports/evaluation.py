"""An evaluation report for people: one HTML page that needs nothing else, or Markdown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from evermodel.records import EvaluationReport
from evermodel.use_case import LESS_IS_BETTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS: Final = "#2563eb"
THEIRS: Final = "#94a3b8"
INK: Final = "#334155"
WORDS: Final = {
    "promote": ("#15803d", "may go live"),
    "hold": ("#b45309", "stays aside; the champion goes on"),
    "reject": ("#b91c1c", "must not go live"),
}
Rows = Sequence[tuple[str, ...]]


def number(value: float | None) -> str:
    """Four digits after the point, or a dash where the figure isn't known."""
    return "–" if value is None else f"{value:.4f}"


def gate_metric(report: EvaluationReport) -> str:
    """What verdict, baselines and slices are in."""
    return report.gate_metric or report.metric


def metric_table(report: EvaluationReport) -> Rows:
    """(metric, challenger, champion, difference turned so that more is better) as texts."""
    rows = []
    for name, value in report.metrics.items():
        other = report.champion_metrics.get(name)
        known = value is not None and other is not None
        sign = -1.0 if name.rpartition(":")[2] in LESS_IS_BETTER else 1.0
        difference = f"{sign * (value - other):+.4f}" if known else "–"  # type: ignore[operator]
        mark = " (less is better)" if sign < 0 else ""
        rows.append((name + mark, number(value), number(other), difference))
    return rows


def check_table(report: EvaluationReport) -> Rows:
    """(check, level, outcome, reason) of every check of the verdict, failed ones first."""
    checks = sorted(report.verdict.checks, key=lambda check: (check.passed, check.level != "enforce"))
    missed = {"enforce": "failed", "warn": "warning"}
    return [
        (check.name, check.level, "passed" if check.passed else missed[check.level], check.reason) for check in checks
    ]


def slice_table(report: EvaluationReport) -> Rows:
    """(slice, value, rows, challenger, champion) as texts."""
    return [
        (part.slice, part.value, f"{part.rows:,}", number(part.metric), number(part.champion)) for part in report.slices
    ]


def baseline_table(report: EvaluationReport) -> Rows:
    """(baseline, its figure in the gate's metric)."""
    return [(name, number(value)) for name, value in report.baselines.items()]


# Markdown -----------------------------------------------------------------------------------------------------------


def markdown(report: EvaluationReport) -> str:
    """The report as Markdown: verdict and reasons, then figures, baselines, slices and checks."""
    metric = gate_metric(report)
    parts = [
        f"# Evaluation of {report.use_case} · {report.challenger}",
        f"**{report.verdict.word}**: the challenger {WORDS[report.verdict.word][1]}.",
        "\n".join(f"- {reason}" for reason in report.verdict.reasons),
        f"{report.rows:,} rows of {report.window}, none of them trained on; champion {report.champion or 'none yet'}; "
        f"{report.model_bytes:,} bytes packed; {report.milliseconds_per_row:.4f} ms a row.",
        "## Metrics\n\n" + table(("metric", "challenger", "champion", "better by"), metric_table(report)),
    ]
    if report.baselines:
        parts.append(f"## Baselines\n\n{table(('baseline', metric), baseline_table(report))}")
    if report.slices:
        heads = ("slice", "value", "rows", f"{metric}, challenger", "champion")
        parts.append(f"## Slices\n\n{table(heads, slice_table(report))}")
    parts.append(f"## Checks\n\n{table(('check', 'level', 'outcome', 'reason'), check_table(report))}")
    if report.calibration:
        bins = [(f"{score:.3f}", f"{rate:.3f}", f"{rows:,}") for score, rate, rows in report.calibration]
        parts.append(f"## Calibration\n\n{table(('mean score', 'observed rate', 'rows'), bins)}")
    return "\n\n".join(parts) + "\n"


def table(heads: Sequence[str], rows: Rows) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# pictures -----------------------------------------------------------------------------------------------------------


def pictures(report: EvaluationReport) -> dict[str, str]:
    """SVG texts by title, of what the report holds: difference, against the baselines, calibration, ROC, slices."""
    metric = gate_metric(report)
    drawn: dict[str, str] = {}
    if report.verdict.difference is not None:
        drawn["Difference from the champion"] = _draw(_difference, report, (5.2, 1.7))
    if report.baselines:
        drawn[f"{metric} against baselines"] = _draw(_against, report, (5.2, 0.9 + 0.34 * len(report.baselines)))
    if report.calibration:
        drawn["Calibration"] = _draw(_reliability, report, (5.2, 4.0))
    if report.roc:
        drawn["ROC curve"] = _draw(_roc, report, (5.2, 4.0))
    if any(part.metric is not None for part in report.slices):
        known = sum(part.metric is not None for part in report.slices)
        drawn[f"{metric} by slice"] = _draw(_slices, report, (5.2, 1.0 + 0.26 * known))
    return drawn


def _draw(plot: Callable[[Axes, EvaluationReport], None], report: EvaluationReport, size: tuple[float, float]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    look: Any = {"svg.hashsalt": "evermodel", "font.size": 9, "text.color": INK, "axes.labelcolor": INK}
    look |= {"axes.edgecolor": "#cbd5e1", "xtick.color": INK, "ytick.color": INK, "legend.frameon": False}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e2e8f0", linewidth=0.6)
        axes.set_axisbelow(True)
        plot(axes, report)
        page = io.StringIO()
        figure.savefig(page, format="svg", metadata={"Date": None}, transparent=True)
    return page.getvalue()


def _difference(axes: Axes, report: EvaluationReport) -> None:
    difference = report.verdict.difference
    assert difference is not None
    color = WORDS[report.verdict.word][0]
    axes.axvline(0, color=INK, linewidth=1)
    axes.plot([difference.low, difference.high], [0, 0], color=color, linewidth=5, solid_capstyle="round", alpha=0.45)
    axes.plot(difference.point, 0, "o", color=color, markersize=9)
    axes.annotate(f"{difference.point:+.4f}", (difference.point, 0), (0, 11), textcoords="offset points", ha="center")
    axes.set(yticks=[], ylim=(-1, 1), xlabel=f"{gate_metric(report)}: better by, {difference.level:.0%} interval")
    axes.spines["left"].set_visible(False)


def _against(axes: Axes, report: EvaluationReport) -> None:
    metric = gate_metric(report)
    bars = {"challenger": report.metrics.get(metric), "champion": report.champion_metrics.get(metric)}
    known = [(name, value) for name, value in (bars | report.baselines).items() if value is not None][::-1]
    colors = [OURS if name == "challenger" else INK if name == "champion" else THEIRS for name, _ in known]
    drawn = axes.barh([name for name, _ in known], [value for _, value in known], color=colors, height=0.62)
    axes.bar_label(drawn, fmt="%.4f", padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.tick_params(left=False)


def _reliability(axes: Axes, report: EvaluationReport) -> None:
    score, rate, rows = zip(*report.calibration, strict=True)
    axes.plot([0, 1], [0, 1], "--", color=THEIRS, linewidth=1, label="as said")
    axes.bar(score, [count / sum(rows) for count in rows], width=0.06, color=THEIRS, alpha=0.35, label="share of rows")
    axes.plot(score, rate, "o-", color=OURS, linewidth=1.5, markersize=5, label="as it came")
    axes.set(xlabel="mean score of the bin", ylabel="observed rate", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", fontsize=8)


def _roc(axes: Axes, report: EvaluationReport) -> None:
    wrong, right, _ = zip(*report.roc, strict=True)
    axes.plot([0, 1], [0, 1], "--", color=THEIRS, linewidth=1)
    axes.plot(wrong, right, color=OURS, linewidth=1.8)
    axes.fill_between(wrong, right, color=OURS, alpha=0.07)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    if (area := report.metrics.get("auc")) is not None:
        axes.text(0.97, 0.05, f"AUC {area:.4f}", ha="right")


def _slices(axes: Axes, report: EvaluationReport) -> None:
    known = [(part, part.metric) for part in report.slices if part.metric is not None][::-1]
    names = [f"{part.slice}: {part.value}  ({part.rows:,})" for part, _ in known]
    places = range(len(known))
    for place, (part, value) in enumerate(known):
        if part.champion is not None:
            axes.plot([part.champion, value], [place, place], color="#cbd5e1", linewidth=2, zorder=1)
            axes.plot(part.champion, place, "o", color=THEIRS, markersize=6, label="champion")
    axes.plot([value for _, value in known], places, "o", color=OURS, markersize=6, label="challenger", linestyle="")
    whole = report.metrics.get(gate_metric(report))
    if whole is not None:
        axes.axvline(whole, color=OURS, linewidth=0.8, linestyle=":", label="all rows")
    axes.set(yticks=list(places), yticklabels=names, ylim=(-0.7, len(known) - 0.3))
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


# HTML ---------------------------------------------------------------------------------------------------------------

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.use_case }} · {{ report.challenger }} · {{ report.verdict.word }}</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: #1e293b; background: #f8fafc;
       margin: 0 auto; max-width: 1020px; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
.muted { color: #64748b; } code { font-size: .92em; }
.verdict { border-left: 6px solid {{ color }}; background: #fff; border-radius: 8px; padding: 1rem 1.25rem; margin: 1.2rem 0;
           box-shadow: 0 1px 3px #0f172a1a; }
.verdict strong { color: {{ color }}; font-size: 1.35rem; text-transform: uppercase; letter-spacing: .04em; }
.verdict ul { margin: .6rem 0 0; padding-left: 1.1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; }
.facts div, figure, .wide { background: #fff; border-radius: 8px; box-shadow: 0 1px 3px #0f172a1a; }
.facts div { padding: .6rem .9rem; } .facts b { display: block; font-size: 1.12rem; }
.pictures { columns: 2 380px; column-gap: .9rem; }
figure { margin: 0 0 .9rem; padding: .8rem; break-inside: avoid; } figure img { width: 100%; } figcaption { font-weight: 600; margin-bottom: .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; color: #64748b; font-weight: 600; } th, td { padding: .42rem .9rem; border-bottom: 1px solid #e2e8f0; }
tr:last-child td { border-bottom: 0; } td.n { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
th.n { text-align: right; } .failed { color: #b91c1c; font-weight: 600; } .passed { color: #15803d; }
.warning { color: #b45309; font-weight: 600; }
</style></head><body>
<h1>{{ report.use_case }}: challenger <code>{{ report.challenger }}</code></h1>
<div class="muted">against {% if report.champion %}champion <code>{{ report.champion }}</code>{% else %}no champion yet{% endif %},
on {{ "{:,}".format(report.rows) }} rows of {{ report.window }} that the challenger was not trained on</div>
<section class="verdict"><strong>{{ report.verdict.word }}</strong> &nbsp; the challenger {{ meaning }}.
<ul>{% for reason in report.verdict.reasons %}<li>{{ reason }}</li>{% endfor %}</ul></section>
<div class="facts">{% for name, value in facts %}<div><span class="muted">{{ name }}</span><b>{{ value }}</b></div>{% endfor %}</div>
{% if pictures %}<h2>Pictures</h2><div class="pictures">
{% for title, image in pictures %}<figure><figcaption>{{ title }}</figcaption><img alt="{{ title }}" src="{{ image }}"></figure>
{% endfor %}</div>{% endif %}
{% for title, heads, rows, first_number in tables %}<h2>{{ title }}</h2><div class="wide"><table>
<thead><tr>{% for head in heads %}<th{% if loop.index0 >= first_number %} class="n"{% endif %}>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td class="{% if loop.index0 >= first_number %}n{% endif %}{% if cell in ('passed', 'failed', 'warning') %} {{ cell }}{% endif %}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
</body></html>
"""


def html(report: EvaluationReport) -> str:
    """The report as one HTML page: no script, no other file, the pictures inside."""
    from jinja2 import Environment, StrictUndefined

    metric = gate_metric(report)
    color, meaning = WORDS[report.verdict.word]
    tables = [
        ("Metrics", ("metric", "challenger", "champion", "better by"), metric_table(report), 1),
        ("Baselines", ("baseline", metric), baseline_table(report), 1),
        ("Slices", ("slice", "value", "rows", f"{metric}, challenger", "champion"), slice_table(report), 2),
        ("Checks", ("check", "level", "outcome", "reason"), check_table(report), 9),
    ]
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    return page.render(
        report=report,
        color=color,
        meaning=meaning,
        facts=_facts(report),
        pictures=[(title, _embedded(svg)) for title, svg in pictures(report).items()],
        tables=[entry for entry in tables if entry[2]],
    )


def _facts(report: EvaluationReport) -> Rows:
    metric = gate_metric(report)
    return [
        (metric, number(report.metrics.get(metric))),
        (f"{metric} of the champion", number(report.champion_metrics.get(metric))),
        ("rows judged", f"{report.rows:,}"),
        ("packed size", f"{report.model_bytes / 1024:,.1f} KiB"),
        ("time a row", f"{report.milliseconds_per_row * 1000:,.1f} µs"),
    ]


def _embedded(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
