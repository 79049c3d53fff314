"""The figure of a use case over time, as geometry: what a template draws as inline SVG. Pure; no clock, no markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import floor, log10

from evermodel.records import Alert, MonitoringReport, Promotion

WIDTH, HEIGHT = 960, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 30, 58
LANE = HEIGHT - BOTTOM + 14  # where alerts stand, below the plot
STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 2 * 86_400, 7 * 86_400, 14 * 86_400, 28 * 86_400)
MOST_WINDOWS = 120


@dataclass(frozen=True)
class Dot:
    """A window's figure; `estimated` where labels are still missing."""

    x: float
    y: float
    title: str
    estimated: bool


@dataclass(frozen=True)
class Stretch:
    """The windows of one champion: a line through its dots, and its own figure at the gate."""

    champion: str
    points: str
    dots: tuple[Dot, ...]
    x0: float
    x1: float
    reference: float | None


@dataclass(frozen=True)
class Mark:
    """A promotion, a rollback or an alert, at its time."""

    x: float
    width: float
    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Picture:
    """Everything in the units of the view box."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    lane: int
    stretches: tuple[Stretch, ...]
    promotions: tuple[Mark, ...]
    alerts: tuple[Mark, ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]


def draw(
    windows: Sequence[MonitoringReport], promotions: Sequence[Promotion], alerts: Sequence[Alert]
) -> Picture | None:
    """The picture of the newest windows, with what happened meanwhile; None where no window has a figure."""
    shown = [window for window in windows if _figure(window) is not None][-MOST_WINDOWS:]
    if not shown:
        return None
    start, end = min(one.window.start for one in shown), max(one.window.end for one in shown)
    for row in promotions:  # the newest champion may have no window yet
        end = max(end, row.at)
    values = [value for one in shown for value in (_figure(one), one.reference) if value is not None]
    low, high, step = _scale(min(values), max(values))

    def x(at: datetime) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * ((at - start) / (end - start)), 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)), 1)

    count = round((high - low) / step)
    digits = max(0, -floor(log10(step) + 1e-9))
    return Picture(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        lane=LANE,
        stretches=tuple(_stretch(part, x, y) for part in _by_champion(shown)),
        promotions=tuple(_promotion(row, x(row.at)) for row in promotions if start <= row.at <= end),
        alerts=tuple(_alerts(alerts, start, end, x)),
        y_ticks=tuple((y(low + i * step), f"{low + i * step:.{digits}f}") for i in range(count + 1)),
        x_ticks=tuple((x(at), text) for at, text in _times(start, end)),
    )


def _figure(window: MonitoringReport) -> float | None:
    return window.performance if window.performance is not None else window.estimate


def _by_champion(shown: Sequence[MonitoringReport]) -> list[list[MonitoringReport]]:
    parts: list[list[MonitoringReport]] = []
    for window in shown:
        if not parts or parts[-1][0].champion != window.champion:
            parts.append([])
        parts[-1].append(window)
    return parts


def _stretch(part: Sequence[MonitoringReport], x, y) -> Stretch:  # type: ignore[no-untyped-def]
    dots = []
    for one in part:
        value = _figure(one)
        assert value is not None
        middle = one.window.start + (one.window.end - one.window.start) / 2
        estimated = one.performance is None
        word = "estimated " if estimated else ""
        title = f"{one.window}: {word}{one.metric} {value:.4g}, {one.matured_rows} of {one.rows} rows matured, champion {one.champion}"
        dots.append(Dot(x(middle), y(value), title, estimated))
    reference = part[-1].reference
    return Stretch(
        champion=part[0].champion or "none",
        points=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        dots=tuple(dots),
        x0=x(part[0].window.start),
        x1=x(part[-1].window.end),
        reference=None if reference is None else y(reference),
    )


def _promotion(row: Promotion, x: float) -> Mark:
    title = f"{row.action} {row.version}, {row.at:%Y-%m-%d %H:%M} UTC: {row.release.id} by {row.actor}: {row.reason}"
    return Mark(x, 0, row.action, f"{'↩' if row.action == 'rollback' else '▲'} {row.version}", title)


def _alerts(alerts: Sequence[Alert], start: datetime, end: datetime, x) -> list[Mark]:  # type: ignore[no-untyped-def]
    """One mark a window: what it is diagnosed as, and every kind that alerted."""
    found: dict[tuple[datetime, datetime], list[Alert]] = {}
    for alert in alerts:
        if alert.window.start < end and alert.window.end > start:
            found.setdefault((max(alert.window.start, start), min(alert.window.end, end)), []).append(alert)
    marks = []
    for (begin, stop), these in sorted(found.items()):
        kinds = ", ".join(sorted({alert.kind.replace("_", " ") for alert in these}))
        diagnosis = these[0].diagnosis
        left, right = x(begin), x(stop)
        title = f"{these[0].window}: {kinds}; diagnosis {diagnosis.replace('_', ' ')}"
        marks.append(Mark(left, round(max(right - left, 4.0), 1), diagnosis, diagnosis.replace("_", " "), title))
    return marks


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Bounds and step of a y axis with round numbers and three to six of them."""
    span = (high - low) or abs(high) / 5 or 1.0
    raw = span * 1.2 / 4
    size = 10.0 ** floor(log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)
    bottom = floor((low - 0.05 * span) / step) * step
    count = 1
    while bottom + count * step < high + 0.05 * span:
        count += 1
    return bottom, bottom + count * step, step


def _times(start: datetime, end: datetime) -> list[tuple[datetime, str]]:
    span = (end - start).total_seconds()
    step = next((step for step in STEPS if span / step <= 8), STEPS[-1] * (1 + int(span // (STEPS[-1] * 8))))
    first = -(-int(start.timestamp()) // step) * step
    at = datetime.fromtimestamp(first, UTC)
    found = []
    while at <= end:
        found.append((at, f"{at:%d %b}" if step >= 86_400 else f"{at:%H:%M}"))
        at += timedelta(seconds=step)
    return found
