"""The loop in pictures: the metric over time with alerts and promotions, by policy.

Colours are one per policy or turn, told apart in grey too by their marks. Times are UTC.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from evermodel import storage
from evermodel.records import MonitoringReport, Promotion
from evermodel.use_case import UseCase

COLOURS = {"stateful": "#1b6ca8", "from_scratch": "#d9822b", "static": "#6b7280"}
VERDICT_MARKS = {"promote": "^", "hold": "_", "reject": "x"}


def _figure(rows: int, height: float, *, width: float = 11) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, figsize=(width, height), sharex=True, squeeze=False, layout="constrained")
    for axis in axes[:, 0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes[:, 0]


def _save(figure: Any) -> bytes:
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    return buffer.getvalue()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _smooth(values: Sequence[float | None], width: int = 4) -> list[float | None]:
    """Mean of the last `width` known values: weekly windows of a few hundred rows are noisy."""
    result: list[float | None] = []
    for index in range(len(values)):
        known = [value for value in values[max(0, index - width + 1) : index + 1] if value is not None]
        result.append(sum(known) / len(known) if known else None)
    return result


def plot_backtest(result: dict[str, Any], path: Path) -> None:
    """One picture of a replay: the metric of each policy over time, then each policy's alerts, retrains and verdicts."""
    lives = result["policies"]
    figure, axes = _figure(2, 6.5)
    for life in lives:
        times = [_time(window["start"]) for window in life["windows"]]
        values = [window["metric"] for window in life["windows"]]
        total = life["totals"]["metric"]
        colour = COLOURS.get(life["policy"], "#111827")
        reached = "unknown" if total is None else f"{total:.3f}"
        label = f"{life['policy']}: {reached}, {life['totals']['rows_trained']:,} rows × epochs"
        axes[0].plot(times, values, color=colour, alpha=0.25, linewidth=0.8)
        axes[0].plot(times, _smooth(values), color=colour, linewidth=2, label=label)
    axes[0].set_ylabel(result["metric"])
    axes[0].set_title(
        f"{result['use_case']}: {result['metric']} of each served window (thick: mean of four)", loc="left"
    )
    axes[0].legend(frameon=False, loc="best")
    _timeline(axes[1], lives)
    storage.write_bytes(path, _save(figure))


def _timeline(axis: Any, lives: list[dict[str, Any]]) -> None:
    for line, life in enumerate(reversed(lives)):
        colour = COLOURS.get(life["policy"], "#111827")
        alerts = [_time(alert["end"]) for alert in life["alerts"] if alert["kind"] != "schedule"]
        axis.scatter(alerts, [line + 0.22] * len(alerts), marker="|", color="#b91c1c", s=40)
        for verdict, mark in VERDICT_MARKS.items():
            at = [_time(turn["at"]) for turn in life["retrains"] if turn["verdict"] == verdict]
            axis.scatter(at, [line] * len(at), marker=mark, color=colour, s=30)
    axis.set_yticks(range(len(lives)), [life["policy"] for life in reversed(lives)])
    axis.set_ylim(-0.5, len(lives) - 0.3)
    axis.set_title("red bars: alerts;  ▲ promoted   – held   × rejected", loc="left", fontsize=10)


def chart_life(case: UseCase, reports: Sequence[MonitoringReport], promotions: Sequence[Promotion]) -> str:
    """SVG: each monitored window's metric with its champion's yardstick, alerts in red, promotions as lines."""
    figure, (axis,) = _figure(1, 3.2)
    times = [report.window.start for report in reports]
    known = [(report.window.start, report.performance) for report in reports if report.performance is not None]
    axis.plot(
        [at for at, _ in known],
        [value for _, value in known],
        "o-",
        color=COLOURS["stateful"],
        label=case.evaluation.metric,
    )
    yardstick = [report.reference for report in reports]
    axis.step(
        times,
        [float("nan") if value is None else value for value in yardstick],
        where="post",
        color="#94a3b8",
        linestyle=":",
        label="champion at its gate",
    )
    for report in reports:
        for place, alert in enumerate(alert for alert in report.alerts if report.performance is not None):
            axis.annotate(
                f"{alert.kind}: {alert.diagnosis}",
                (report.window.start, report.performance or 0),
                (4, -12 - 11 * place),
                textcoords="offset points",
                fontsize=8,
                color="#b91c1c",
            )
            axis.plot(
                report.window.start, report.performance, "o", color="#b91c1c", markersize=9, markerfacecolor="none"
            )
    for promotion in promotions:
        axis.axvline(promotion.at, color="#15803d", linewidth=1)
        axis.annotate(
            promotion.release.id,
            (promotion.at, axis.get_ylim()[1]),
            (2, -9),
            textcoords="offset points",
            fontsize=8,
            color="#15803d",
        )
    axis.margins(x=0.08, y=0.25)
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    return _svg(figure)


def chart_drift(reports: Sequence[MonitoringReport]) -> str:
    """SVG: the drift score of every column in every window, in units of its threshold; above 1 is drifted."""
    columns = list(dict.fromkeys(score.column for report in reports for score in report.drift))
    cells = [
        [
            next(
                (s.score / s.threshold for s in report.drift if s.column == column and s.score is not None),
                float("nan"),
            )
            for report in reports
        ]
        for column in columns
    ]
    figure, (axis,) = _figure(1, 0.9 + 0.24 * len(columns), width=6)
    axis.grid(visible=False)
    image = axis.imshow(cells or [[0.0]], aspect="auto", cmap="Reds", vmin=0, vmax=2)
    axis.set_yticks(range(len(columns)), columns, fontsize=8)
    axis.set_xticks(range(len(reports)), [f"{report.window.start:%m-%d}" for report in reports], fontsize=8)
    figure.colorbar(image, ax=axis, label="score ÷ threshold", shrink=0.8)
    return _svg(figure)


def chart_trade_off(case: UseCase, points: Sequence[dict[str, float]]) -> str:
    """SVG: what each objective gains and loses as the last one's weight changes at serve time."""
    figure, (axis,) = _figure(1, 3.2, width=6)
    last = case.objectives[-1]
    colours = ["#1b6ca8", "#d9822b"]
    for colour, objective in zip(colours, (case.objectives[0], last), strict=True):
        values = [point.get(objective.name, float("nan")) for point in points]
        axis.plot([point["weight"] for point in points], values, "o-", color=colour, label=f"NDCG of {objective.label}")
    axis.axvline(last.weight, color="#94a3b8", linestyle=":", label="weight in the use case")
    axis.set_xlabel(f"weight of {last.name}")
    axis.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    page = io.StringIO()
    figure.savefig(page, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return page.getvalue()
