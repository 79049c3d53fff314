"""Lays out the metric of a use case over time: coordinates for the inline SVG of `chart.html`. No clock, no markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import floor, log10

from evermodel.records import Alert, MonitoringReport, Promotion

WIDTH, HEIGHT = 960, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 30, 58
ALERT_LANE = HEIGHT - BOTTOM + 14  # y of the alerts, below the plot
MIN_ALERT_WIDTH = 4.0
TIME_STEPS = (60, 300, 900, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_419_200)  # seconds
MAX_WINDOWS = 120
MAX_TIME_TICKS = 8

ToX = Callable[[datetime], float]
ToY = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """A window's metric; `estimated` if labels are still missing."""

    x: float
    y: float
    title: str
    estimated: bool


@dataclass(frozen=True)
class ChampionLine:
    """The windows of one champion: a line through its points, and its metric at the gate."""

    champion: str
    points: tuple[Point, ...]
    x0: float
    x1: float
    reference: float | None

    @property
    def path(self) -> str:
        return " ".join(f"{point.x},{point.y}" for point in self.points)


@dataclass(frozen=True)
class Marker:
    """A promotion, a rollback or an alert at its time."""

    x: float
    width: float
    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Chart:
    """The whole chart, in the units of the SVG's view box."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    alert_lane: int
    lines: tuple[ChampionLine, ...]
    promotions: tuple[Marker, ...]
    alerts: tuple[Marker, ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]


def lay_out(
    reports: Sequence[MonitoringReport], promotions: Sequence[Promotion], alerts: Sequence[Alert]
) -> Chart | None:
    """The chart of the newest windows and what happened in them; None if no window has a metric."""
    shown = [report for report in reports if _metric(report) is not None][-MAX_WINDOWS:]
    if not shown:
        return None
    start, end = min(report.window.start for report in shown), max(report.window.end for report in shown)
    for row in promotions:  # the newest champion may have no window yet
        end = max(end, row.at)
    values = [value for report in shown for value in (_metric(report), report.reference) if value is not None]
    low, high, step = value_scale(min(values), max(values))

    def to_x(at: datetime) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * ((at - start) / (end - start)), 1)

    def to_y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)), 1)

    steps = round((high - low) / step)
    digits = max(0, -floor(log10(step) + 1e-9))
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        alert_lane=ALERT_LANE,
        lines=tuple(_champion_line(group, to_x, to_y) for group in _group_by_champion(shown)),
        promotions=tuple(_promotion_marker(row, to_x(row.at)) for row in promotions if start <= row.at <= end),
        alerts=tuple(_alert_markers(alerts, start, end, to_x)),
        y_ticks=tuple((to_y(low + i * step), f"{low + i * step:.{digits}f}") for i in range(steps + 1)),
        x_ticks=tuple((to_x(at), text) for at, text in time_ticks(start, end)),
    )


def _metric(report: MonitoringReport) -> float | None:
    return report.performance if report.performance is not None else report.estimate


def _group_by_champion(shown: Sequence[MonitoringReport]) -> list[list[MonitoringReport]]:
    groups: list[list[MonitoringReport]] = []
    for report in shown:
        if not groups or groups[-1][0].champion != report.champion:
            groups.append([])
        groups[-1].append(report)
    return groups


def _champion_line(group: Sequence[MonitoringReport], to_x: ToX, to_y: ToY) -> ChampionLine:
    points = []
    for report in group:
        value = _metric(report)
        assert value is not None
        middle = report.window.start + (report.window.end - report.window.start) / 2
        estimated = report.performance is None
        title = (
            f"{report.window}: {'estimated ' if estimated else ''}{report.metric} {value:.4g}, "
            f"{report.matured_rows} of {report.rows} rows matured, champion {report.champion}"
        )
        points.append(Point(to_x(middle), to_y(value), title, estimated))
    reference = group[-1].reference
    return ChampionLine(
        champion=group[0].champion or "none",
        points=tuple(points),
        x0=to_x(group[0].window.start),
        x1=to_x(group[-1].window.end),
        reference=None if reference is None else to_y(reference),
    )


def _promotion_marker(row: Promotion, x: float) -> Marker:
    title = f"{row.action} {row.version}, {row.at:%Y-%m-%d %H:%M} UTC: {row.release.id} by {row.actor}: {row.reason}"
    return Marker(x, 0, row.action, f"{'↩' if row.action == 'rollback' else '▲'} {row.version}", title)


def _alert_markers(alerts: Sequence[Alert], start: datetime, end: datetime, to_x: ToX) -> list[Marker]:
    """One marker for each alerted window: its diagnosis and every kind of alert."""
    by_window: dict[tuple[datetime, datetime], list[Alert]] = {}
    for alert in alerts:
        if alert.window.start < end and alert.window.end > start:
            span = (max(alert.window.start, start), min(alert.window.end, end))
            by_window.setdefault(span, []).append(alert)
    markers = []
    for (first, last), group in sorted(by_window.items()):
        kinds = ", ".join(sorted({alert.kind.replace("_", " ") for alert in group}))
        diagnosis = group[0].diagnosis
        label = diagnosis.replace("_", " ")
        width = round(max(to_x(last) - to_x(first), MIN_ALERT_WIDTH), 1)
        markers.append(Marker(to_x(first), width, diagnosis, label, f"{group[0].window}: {kinds}; diagnosis {label}"))
    return markers


def value_scale(low: float, high: float) -> tuple[float, float, float]:
    """Round bounds and a round step of a y axis that holds [low, high]."""
    span = (high - low) or abs(high) / 5 or 1.0
    raw = span * 1.2 / 4
    size = 10.0 ** floor(log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)
    bottom = floor((low - 0.05 * span) / step) * step
    count = 1
    while bottom + count * step < high + 0.05 * span:
        count += 1
    return bottom, bottom + count * step, step


def time_ticks(start: datetime, end: datetime) -> list[tuple[datetime, str]]:
    """Round times of an x axis with their labels."""
    span = (end - start).total_seconds()
    longest = TIME_STEPS[-1]
    step = next(
        (step for step in TIME_STEPS if span / step <= MAX_TIME_TICKS),
        longest * (1 + int(span // (longest * MAX_TIME_TICKS))),
    )
    first = -(-int(start.timestamp()) // step) * step
    at = datetime.fromtimestamp(first, UTC)
    ticks = []
    while at <= end:
        ticks.append((at, f"{at:%d %b}" if step >= 86_400 else f"{at:%H:%M}"))
        at += timedelta(seconds=step)
    return ticks
