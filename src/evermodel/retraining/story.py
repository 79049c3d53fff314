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

COLOURS = {"stateful": "#1b6ca8", "from_scratch": "#d9822b", "static": "#6b7280"}
VERDICT_MARKS = {"promote": "^", "hold": "_", "reject": "x"}


def _figure(rows: int, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, figsize=(11, height), sharex=True, squeeze=False, layout="constrained")
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


def plot_replay(result: dict[str, Any], path: Path) -> None:
    """One picture of a replay: the metric of each policy over time, then each policy's alerts, retrains and verdicts."""
    lives = result["policies"]
    figure, axes = _figure(2, 6.5)
    for life in lives:
        times = [_time(window["start"]) for window in life["windows"]]
        values = [window["metric"] for window in life["windows"]]
        total = life["totals"]["metric"]
        colour = COLOURS.get(life["policy"], "#111827")
        label = f"{life['policy']}: {total:.3f}, {life['totals']['rows_trained']:,} rows × epochs"
        axes[0].plot(times, values, color=colour, alpha=0.25, linewidth=0.8)
        axes[0].plot(times, _smooth(values), color=colour, linewidth=2, label=label)
    axes[0].set_ylabel(result["metric"])
    axes[0].set_title(f"{result['use_case']}: {result['metric']} of each served window (thick: mean of four)", loc="left")
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
