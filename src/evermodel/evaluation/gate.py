"""The gate: may this challenger go live? A pure function of what was measured; measuring is `evaluate`'s.

- `reject`: an enforced check fails, or the interval of challenger − champion lies wholly below 0.
- `promote`: the interval's lower bound is above −margin and the point estimate is at least 0.
- `hold`: anything else, too few rows included. Champion and cursor stay; the next turn has more rows.

Without a champion the baselines and checks decide. A trivial baseline (random, majority, mean) must be beaten, any other
may be better by no more than the margin. Against a champion that loses to a baseline itself, that baseline only warns:
keeping the worse of the two live helps nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from evermodel.evaluation.slices import SliceResult
from evermodel.records import Check, Interval, Verdict, VerdictWord
from evermodel.use_case import LESS_IS_BETTER, Gate, Slice

TRIVIAL: Final = frozenset({"random", "majority", "mean"})


@dataclass(frozen=True)
class BaselineResult:
    """A baseline on the gate's rows. Differences are signed: above 0 the model is better. None: not known, `note` says why."""

    name: str
    value: float | None
    difference: float | None  # challenger − baseline
    champion_difference: float | None = None  # champion − baseline
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """All that the gate looks at. `difference` is challenger − champion, None without a champion or where undefined."""

    metric: str
    rows: int
    has_champion: bool
    model_bytes: int
    value: float | None = None
    champion_value: float | None = None
    difference: Interval | None = None
    smoke_failure: str | None = None  # why the smoke request failed
    baselines: tuple[BaselineResult, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    behaviour: tuple[Check, ...] = ()
    calibration_error: float | None = None


def judge(gate: Gate, measured: Measured) -> Verdict:
    """The verdict, with every check and the reasons in words."""
    checks = [_smoke(gate, measured), _size(gate, measured)]
    if measured.smoke_failure is None:
        checks += measured.behaviour
        if measured.rows >= gate.minimum_rows:  # on fewer rows these say nothing
            checks += [_baseline(gate, measured, baseline) for baseline in measured.baselines]
            checks += _slices(measured)
            checks += _calibration(gate, measured)
    word, why = _word(gate, measured, checks)
    failed = sorted((check for check in checks if not check.passed), key=lambda check: check.level != "enforce")
    reasons = (why, *(f"{check.name} ({_consequence(check)}): {check.reason}" for check in failed))
    return Verdict(word=word, difference=measured.difference, checks=tuple(checks), reasons=reasons)


def _consequence(check: Check) -> str:
    return "enforced, failed" if check.level == "enforce" else "warning"


def _word(gate: Gate, measured: Measured, checks: list[Check]) -> tuple[VerdictWord, str]:
    failed = [check.name for check in checks if check.level == "enforce" and not check.passed]
    if failed:
        return "reject", f"enforced checks failed: {', '.join(failed)}"
    if measured.rows < gate.minimum_rows:
        return "hold", f"{measured.rows} rows with known labels to judge on, fewer than {gate.minimum_rows}"
    if measured.value is None:
        return "hold", f"{measured.metric} isn't defined on these {measured.rows} rows"
    if not measured.has_champion:
        return "promote", f"no champion yet; {measured.metric} is {measured.value:.4f} and every enforced check passed"
    if measured.difference is None:
        return "hold", f"the difference in {measured.metric} can't be known on these {measured.rows} rows"
    return _compared(gate, measured, measured.difference)


def _compared(gate: Gate, measured: Measured, difference: Interval) -> tuple[VerdictWord, str]:
    better = " (less is better; the difference is turned)" if measured.metric in LESS_IS_BETTER else ""
    figures = (
        f"{measured.metric} {_number(measured.value)} against the champion's {_number(measured.champion_value)}{better}: "
        f"difference {difference.point:+.4f}, {difference.level:.0%} interval {difference.low:+.4f} to {difference.high:+.4f}"
    )
    if difference.high < 0:
        return "reject", f"{figures}, wholly below 0"
    if difference.point < 0:
        return "hold", f"{figures}: not better"
    if difference.low <= -gate.margin:
        return "hold", f"{figures}: its lower bound is not above −{gate.margin:g}"
    return "promote", f"{figures}: at least as good, and its lower bound is above −{gate.margin:g}"


def _smoke(gate: Gate, measured: Measured) -> Check:
    passed = measured.smoke_failure is None
    reason = "the packed model answers a row, and a row of nulls" if passed else str(measured.smoke_failure)
    return Check(name="smoke", level=gate.smoke, passed=passed, reason=reason)


def _size(gate: Gate, measured: Measured) -> Check:
    return Check(
        name="size",
        level="enforce",
        passed=measured.model_bytes <= gate.max_bytes,
        reason=f"the packed model has {measured.model_bytes:,} bytes, at most {gate.max_bytes:,} allowed",
        value=float(measured.model_bytes),
        bound=float(gate.max_bytes),
    )


def _baseline(gate: Gate, measured: Measured, baseline: BaselineResult) -> Check:
    name = f"baseline:{baseline.name}"
    if baseline.difference is None:
        note = baseline.note or f"{measured.metric} isn't defined for it"
        return Check(name=name, level=gate.baselines, passed=True, reason=f"not compared: {note}")
    trivial = baseline.name in TRIVIAL
    passed = baseline.difference > 0 if trivial else baseline.difference >= -gate.margin
    rule = "must be beaten" if trivial else f"may be better by {gate.margin:g}"
    reason = (
        f"{measured.metric} {_number(measured.value)} against the baseline's {_number(baseline.value)}, which {rule}: "
        f"difference {baseline.difference:+.4f}"
    )
    level: Literal["enforce", "warn"] = gate.baselines
    excused = baseline.champion_difference is not None and not _stands(gate, trivial, baseline.champion_difference)
    if not passed and excused:
        level, reason = "warn", f"{reason}; the champion loses to it too ({baseline.champion_difference:+.4f})"
    bound = 0.0 if trivial else -gate.margin
    return Check(name=name, level=level, passed=passed, reason=reason, value=baseline.difference, bound=bound)


def _stands(gate: Gate, trivial: bool, difference: float) -> bool:
    return difference > 0 if trivial else difference >= -gate.margin


def _slices(measured: Measured) -> list[Check]:
    """One check a slice that has a max_drop: of the part that fell most below the champion."""
    parts: dict[Slice, list[SliceResult]] = {}
    for result in measured.slices:
        if result.slice.max_drop is not None:
            parts.setdefault(result.slice, []).append(result)
    return [_slice(measured.metric, part, results) for part, results in parts.items()] if measured.has_champion else []


def _slice(metric: str, part: Slice, results: list[SliceResult]) -> Check:
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0
    drops = [
        (sign * (result.champion - result.challenger), result)
        for result in results
        if result.champion is not None and result.challenger is not None
    ]
    name, bound = f"slice:{part.field}", float(part.max_drop or 0.0)
    if not drops:
        reason = f"not compared: no part has {part.minimum_rows} rows and a defined {metric}"
        return Check(name=name, level=part.level, passed=True, reason=reason, bound=bound)
    drop, worst = max(drops, key=lambda item: item[0])
    reason = (
        f"worst at {part.field}: {worst.value} ({worst.rows} rows): {metric} {_number(worst.challenger)} against the "
        f"champion's {_number(worst.champion)}, worse by {drop:+.4f}, at most {bound:g} allowed"
    )
    return Check(name=name, level=part.level, passed=drop <= bound, reason=reason, value=drop, bound=bound)


def _calibration(gate: Gate, measured: Measured) -> list[Check]:
    bound, error = gate.calibration_error, measured.calibration_error
    if bound is None:
        return []
    if error is None:
        reason = "the scores are no probabilities, so their calibration can't be known"
        return [Check(name="calibration", level=gate.calibration, passed=False, reason=reason, bound=bound)]
    reason = f"expected calibration error {error:.4f}, at most {bound:g} allowed"
    passed = error <= bound
    return [Check(name="calibration", level=gate.calibration, passed=passed, reason=reason, value=error, bound=bound)]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
