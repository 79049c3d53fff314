"""Every picture of a report, in one look: an evaluation, the history of a use case, and a backtest.

Times are UTC. Texts may come from data, so none of them is read as mathematical markup. The same input gives the same
SVG text. Axes of times are typed as `Any`: the stubs of Matplotlib take numbers only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evermodel import storage
from evermodel.records import EvaluationReport, MonitoringReport, Promotion
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = "#334155"
GREY: Final = "#94a3b8"
PALE: Final = "#e2e8f0"
BLUE: Final = "#2f5bea"
ORANGE: Final = "#d9822b"
GOOD: Final = "#157f4a"
WARN: Final = "#b45309"
BAD: Final = "#c02a37"
POLICY_COLORS: Final = {"stateful": BLUE, "from_scratch": ORANGE, "static": "#6b7280"}
VERDICT_COLORS: Final = {"promote": GOOD, "hold": WARN, "reject": BAD}
VERDICT_MARKS: Final = {"promote": "^", "hold": "_", "reject": "x"}
LOOK: Final[dict[str, Any]] = {
    "svg.hashsalt": "evermodel",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#cbd5e1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def _render(plot: Callable[..., None], size: tuple[float, float], *, rows: int = 1, kind: str = "svg") -> bytes:
    """The picture that `plot` draws on its `rows` axes; `size` is in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        plot(*figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=110, metadata=metadata, transparent=kind == "svg")
    return buffer.getvalue()


def _svg(plot: Callable[[Axes], None], size: tuple[float, float]) -> str:
    return _render(plot, size).decode()


# an evaluation --------------------------------------------------------------------------------------------------------


def draw_evaluation(report: EvaluationReport) -> dict[str, str]:
    """SVG texts by title: the difference, the baselines, calibration, ROC and slices, as far as the report has them."""
    metric = report.verdict_metric
    drawn: dict[str, str] = {}
    if report.verdict.difference is not None:
        drawn["Difference from the champion"] = _svg(lambda axes: _plot_difference(axes, report), (5.2, 1.7))
    if report.baselines:
        height = 0.9 + 0.34 * len(report.baselines)
        drawn[f"{metric} against baselines"] = _svg(lambda axes: _plot_baselines(axes, report), (5.2, height))
    if report.calibration:
        drawn["Calibration"] = _svg(lambda axes: _plot_calibration(axes, report), (5.2, 4.0))
    if report.roc:
        drawn["ROC curve"] = _svg(lambda axes: _plot_roc(axes, report), (5.2, 4.0))
    known = sum(part.metric is not None for part in report.slices)
    if known:
        drawn[f"{metric} by slice"] = _svg(lambda axes: _plot_slices(axes, report), (5.2, 1.0 + 0.26 * known))
    return drawn


def _plot_difference(axes: Axes, report: EvaluationReport) -> None:
    difference = report.verdict.difference
    assert difference is not None
    color = VERDICT_COLORS[report.verdict.word]
    axes.axvline(0, color=INK, linewidth=1)
    axes.plot([difference.low, difference.high], [0, 0], color=color, linewidth=5, solid_capstyle="round", alpha=0.45)
    axes.plot(difference.point, 0, "o", color=color, markersize=9)
    axes.annotate(f"{difference.point:+.4f}", (difference.point, 0), (0, 11), textcoords="offset points", ha="center")
    metric = report.verdict_metric
    axes.set(yticks=[], ylim=(-1, 1), xlabel=f"{metric}: better by, {difference.level:.0%} interval")
    axes.spines["left"].set_visible(False)


def _plot_baselines(axes: Axes, report: EvaluationReport) -> None:
    metric = report.verdict_metric
    bars = {"challenger": report.metrics.get(metric), "champion": report.champion_metrics.get(metric)}
    known = [(name, value) for name, value in (bars | report.baselines).items() if value is not None][::-1]
    colors = [BLUE if name == "challenger" else INK if name == "champion" else GREY for name, _ in known]
    drawn = axes.barh([name for name, _ in known], [value for _, value in known], color=colors, height=0.62)
    axes.bar_label(drawn, fmt="%.4f", padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.tick_params(left=False)


def _plot_calibration(axes: Axes, report: EvaluationReport) -> None:
    score, rate, rows = zip(*report.calibration, strict=True)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfect calibration")
    axes.bar(score, [count / sum(rows) for count in rows], width=0.06, color=GREY, alpha=0.35, label="share of rows")
    axes.plot(score, rate, "o-", color=BLUE, linewidth=1.5, markersize=5, label="challenger")
    axes.set(xlabel="mean score of the bin", ylabel="observed rate", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")


def _plot_roc(axes: Axes, report: EvaluationReport) -> None:
    false_positives, true_positives, _ = zip(*report.roc, strict=True)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    axes.plot(false_positives, true_positives, color=BLUE, linewidth=1.8)
    axes.fill_between(false_positives, true_positives, color=BLUE, alpha=0.07)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    if (area := report.metrics.get("auc")) is not None:
        axes.text(0.97, 0.05, f"AUC {area:.4f}", ha="right")


def _plot_slices(axes: Axes, report: EvaluationReport) -> None:
    known = [(part, part.metric) for part in report.slices if part.metric is not None][::-1]
    names = [f"{part.slice}: {part.value}  ({part.rows:,})" for part, _ in known]
    places = range(len(known))
    for place, (part, value) in enumerate(known):
        if part.champion is not None:
            axes.plot([part.champion, value], [place, place], color="#cbd5e1", linewidth=2, zorder=1)
            axes.plot(part.champion, place, "o", color=GREY, markersize=6, label="champion")
    axes.plot([value for _, value in known], places, "o", color=BLUE, markersize=6, label="challenger", linestyle="")
    whole = report.metrics.get(report.verdict_metric)
    if whole is not None:
        axes.axvline(whole, color=BLUE, linewidth=0.8, linestyle=":", label="all rows")
    axes.set(yticks=list(places), yticklabels=names, ylim=(-0.7, len(known) - 0.3))
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


# the history of a use case --------------------------------------------------------------------------------------------


def draw_metric_history(metric: str, reports: Sequence[MonitoringReport], promotions: Sequence[Promotion]) -> str:
    """SVG: the metric of each monitored window, the champion's value at its gate, alerts and promotions."""

    def plot(axes: Any) -> None:
        known = [(report, report.performance) for report in reports if report.performance is not None]
        times, values = [report.window.start for report, _ in known], [value for _, value in known]
        axes.plot(times, values, "o-", color=BLUE, label=metric)
        references = [float("nan") if report.reference is None else report.reference for report in reports]
        starts = [report.window.start for report in reports]
        axes.step(starts, references, where="post", color=GREY, linestyle=":", label="champion at its gate")
        for report, value in known:
            for line, alert in enumerate(report.alerts):
                label = f"{alert.kind}: {alert.diagnosis or 'no diagnosis'}"
                _annotate(axes, label, (report.window.start, value), (4, -12 - 11 * line), BAD)
                axes.plot(report.window.start, value, "o", color=BAD, markersize=9, markerfacecolor="none")
        for promotion in promotions:
            axes.axvline(promotion.at, color=GOOD, linewidth=1)
            _annotate(axes, promotion.release.id, (promotion.at, 1.0), (2, -9), GOOD, y="axes fraction")
        axes.margins(x=0.08, y=0.25)
        axes.legend(loc="lower left")

    return _svg(plot, (11, 3.2))


def _annotate(
    axes: Any, text: str, at: tuple[datetime, float], offset: tuple[float, float], color: str, *, y: str = "data"
) -> None:
    """Write a text `offset` points from a place; `y` is the coordinate system of its height."""
    axes.annotate(text, at, offset, xycoords=("data", y), textcoords="offset points", fontsize=8, color=color)


def draw_drift(reports: Sequence[MonitoringReport]) -> str:
    """SVG: the drift score of every column in every window, in units of its threshold; above 1 is drifted."""
    columns = list(dict.fromkeys(score.column for report in reports for score in report.drift))
    relative: list[Mapping[str, float]] = [
        {score.column: score.score / score.threshold for score in report.drift if score.score is not None}
        for report in reports
    ]
    cells = [[scores.get(column, float("nan")) for scores in relative] for column in columns]

    def plot(axes: Axes) -> None:
        axes.grid(visible=False)
        image = axes.imshow(cells or [[0.0]], aspect="auto", cmap="Reds", vmin=0, vmax=2)
        axes.set_yticks(range(len(columns)), columns, fontsize=8)
        axes.set_xticks(range(len(reports)), [f"{report.window.start:%m-%d}" for report in reports], fontsize=8)
        axes.figure.colorbar(image, ax=axes, label="score ÷ threshold", shrink=0.8)

    return _svg(plot, (6, 0.9 + 0.24 * len(columns)))


def draw_trade_off(case: UseCase, points: Sequence[Mapping[str, float]]) -> str:
    """SVG: what the first and the last objective gain and lose as the last one's serving weight changes."""
    first, last = case.objectives[0], case.objectives[-1]

    def plot(axes: Axes) -> None:
        for color, objective in ((BLUE, first), (ORANGE, last)):
            values = [point.get(objective.name, float("nan")) for point in points]
            label = f"NDCG of {objective.label}"
            axes.plot([point["weight"] for point in points], values, "o-", color=color, label=label)
        axes.axvline(last.weight, color=GREY, linestyle=":", label="weight in the use case")
        axes.set_xlabel(f"weight of {last.name}")
        axes.legend()

    return _svg(plot, (6, 3.2))


# a backtest -----------------------------------------------------------------------------------------------------------


def plot_backtest(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of a backtest's result: each policy's metric over time, then its alerts, retrainings and verdicts."""
    storage.write_bytes(path, _render(lambda *axes: _plot_policies(result, *axes), (11, 6.5), rows=2, kind="png"))


def _plot_policies(result: Mapping[str, Any], values: Any, timeline: Any) -> None:
    for policy in result["policies"]:
        times = [datetime.fromisoformat(window["start"]) for window in policy["windows"]]
        metric = [window["metric"] for window in policy["windows"]]
        total, rows = policy["totals"]["metric"], policy["totals"]["rows_trained"]
        label = f"{policy['policy']}: {'unknown' if total is None else f'{total:.3f}'}, {rows:,} rows × epochs"
        color = POLICY_COLORS[policy["policy"]]
        values.plot(times, metric, color=color, alpha=0.25, linewidth=0.8)
        values.plot(times, _smooth(metric), color=color, linewidth=2, label=label)
    values.set_ylabel(result["metric"])
    values.set_title(f"{result['use_case']}: {result['metric']} of each window (thick line: mean of four windows)")
    values.legend(loc="best")
    _plot_timeline(timeline, result["policies"])


def _plot_timeline(axes: Any, policies: Sequence[Mapping[str, Any]]) -> None:
    for line, policy in enumerate(reversed(policies)):
        alerts = [datetime.fromisoformat(alert["end"]) for alert in policy["alerts"] if alert["kind"] != "schedule"]
        axes.scatter(alerts, [line + 0.22] * len(alerts), marker="|", color=BAD, s=40)
        for verdict, mark in VERDICT_MARKS.items():
            at = [datetime.fromisoformat(one["at"]) for one in policy["retrains"] if one["verdict"] == verdict]
            axes.scatter(at, [line] * len(at), marker=mark, color=POLICY_COLORS[policy["policy"]], s=30)
    axes.set_yticks(range(len(policies)), [policy["policy"] for policy in reversed(policies)])
    axes.set_ylim(-0.5, len(policies) - 0.3)
    axes.set_title("red bars: alerts;  ▲ promoted   – held   × rejected")


def _smooth(values: Sequence[float | None], width: int = 4) -> list[float | None]:
    """Mean of the last `width` known values: a weekly window of a few hundred rows is noisy."""
    result: list[float | None] = []
    for index in range(len(values)):
        known = [value for value in values[max(0, index - width + 1) : index + 1] if value is not None]
        result.append(sum(known) / len(known) if known else None)
    return result
