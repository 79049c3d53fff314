"""The gate decides whether a challenger may go live. It is a pure function of the measurements that `evaluate` makes.

- `reject`: an enforced check fails, or the interval of challenger − champion lies wholly below 0.
- `promote`: the interval's lower bound is above −margin and the point estimate is at least 0.
- `hold`: anything else, too few rows included. Champion and cursor stay; the next training round has more rows.

Without a champion the baselines and checks decide. The challenger must beat a trivial baseline (random, majority, mean);
any other may be better by at most the margin. If the champion loses to a baseline too, that baseline only warns, because
a rejection would keep the worse model live.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evermodel.evaluation.slices import SliceResult
from evermodel.records import Check, Interval, Verdict, VerdictWord
from evermodel.use_case import BASELINES, METRICS, Gate, Slice


@dataclass(frozen=True)
class BaselineResult:
    """A baseline on the gate's rows. A difference above 0 means that the model is better; if it is None, `reason` says why."""

    name: str
    value: float | None
    difference: float | None  # challenger − baseline
    champion_difference: float | None = None  # champion − baseline
    reason: str = ""


@dataclass(frozen=True)
class Measurements:
    """The input of the gate. `difference` is challenger − champion; None without a champion, or if it is undefined."""

    metric: str
    rows: int
    has_champion: bool
    model_bytes: int
    value: float | None = None
    champion_value: float | None = None
    difference: Interval | None = None
    smoke_failure: str | None = None  # why the smoke request failed; None if it passed
    baselines: tuple[BaselineResult, ...] = ()
    slices: tuple[SliceResult, ...] = ()
    behaviour: tuple[Check, ...] = ()
    calibration_error: float | None = None


def judge(gate: Gate, measured: Measurements) -> Verdict:
    """The verdict, with every check, and the reasons as text."""
    checks = [_smoke_check(gate, measured), _size_check(gate, measured)]
    if measured.smoke_failure is None:
        checks += measured.behaviour
        if measured.rows >= gate.minimum_rows:  # fewer rows are no evidence
            checks += [_baseline_check(gate, measured, baseline) for baseline in measured.baselines]
            checks += _slice_checks(measured)
            checks += _calibration_checks(gate, measured)
    word, why = _decide(gate, measured, checks)
    failed = sorted((check for check in checks if not check.passed), key=lambda check: check.level != "enforce")
    reasons = (why, *(f"{check.name} ({_consequence(check)}): {check.reason}" for check in failed))
    return Verdict(word=word, difference=measured.difference, checks=tuple(checks), reasons=reasons)


def _consequence(check: Check) -> str:
    return "enforced, failed" if check.level == "enforce" else "warning"


def _decide(gate: Gate, measured: Measurements, checks: list[Check]) -> tuple[VerdictWord, str]:
    failed = [check.name for check in checks if check.level == "enforce" and not check.passed]
    if failed:
        return "reject", f"enforced checks failed: {', '.join(failed)}"
    if measured.rows < gate.minimum_rows:
        return "hold", f"{measured.rows} rows with known labels, fewer than {gate.minimum_rows}"
    if measured.value is None:
        return "hold", f"{measured.metric} is undefined on these {measured.rows} rows"
    if not measured.has_champion:
        return "promote", f"no champion yet; {measured.metric} is {measured.value:.4f} and every enforced check passed"
    if measured.difference is None:
        return "hold", f"the difference in {measured.metric} is undefined on these {measured.rows} rows"
    return _compare(gate, measured, measured.difference)


def _compare(gate: Gate, measured: Measurements, difference: Interval) -> tuple[VerdictWord, str]:
    less = " (less is better, so the sign is reversed)" if METRICS[measured.metric].less_is_better else ""
    figures = (
        f"{measured.metric} {_number(measured.value)} against the champion's {_number(measured.champion_value)}{less}: "
        f"difference {difference.point:+.4f}, {difference.level:.0%} interval {difference.low:+.4f} to {difference.high:+.4f}"
    )
    if difference.high < 0:
        return "reject", f"{figures}, wholly below 0"
    if difference.point < 0:
        return "hold", f"{figures}: not better"
    if difference.low <= -gate.margin:
        return "hold", f"{figures}: its lower bound is not above −{gate.margin:g}"
    return "promote", f"{figures}: at least as good, and its lower bound is above −{gate.margin:g}"


def _smoke_check(gate: Gate, measured: Measurements) -> Check:
    passed = measured.smoke_failure is None
    reason = "the packed model scores a row, and a row of nulls" if passed else str(measured.smoke_failure)
    return Check(name="smoke", level=gate.smoke, passed=passed, reason=reason)


def _size_check(gate: Gate, measured: Measurements) -> Check:
    return Check(
        name="size",
        level="enforce",
        passed=measured.model_bytes <= gate.max_bytes,
        reason=f"the packed model has {measured.model_bytes:,} bytes, at most {gate.max_bytes:,} allowed",
        value=float(measured.model_bytes),
        bound=float(gate.max_bytes),
    )


def _baseline_check(gate: Gate, measured: Measurements, baseline: BaselineResult) -> Check:
    name = f"baseline:{baseline.name}"
    if baseline.difference is None:
        why = baseline.reason or f"{measured.metric} is undefined for it"
        return Check(name=name, level=gate.baselines, passed=True, reason=f"not compared: {why}")
    trivial = baseline.name in BASELINES and BASELINES[baseline.name].trivial
    passed = _withstands(gate, trivial, baseline.difference)
    rule = "must be beaten" if trivial else f"may be better by {gate.margin:g}"
    reason = (
        f"{measured.metric} {_number(measured.value)} against the baseline's {_number(baseline.value)}, which {rule}: "
        f"difference {baseline.difference:+.4f}"
    )
    level: Literal["enforce", "warn"] = gate.baselines
    champion = baseline.champion_difference
    excused = champion is not None and not _withstands(gate, trivial, champion)
    if not passed and excused:
        level, reason = "warn", f"{reason}; the champion loses to it too ({champion:+.4f})"
    bound = 0.0 if trivial else -gate.margin
    return Check(name=name, level=level, passed=passed, reason=reason, value=baseline.difference, bound=bound)


def _withstands(gate: Gate, trivial: bool, difference: float) -> bool:
    """Whether a model is good enough beside a baseline: `difference` is model − baseline."""
    return difference > 0 if trivial else difference >= -gate.margin


def _slice_checks(measured: Measurements) -> list[Check]:
    """One check for each slice with a max_drop: the part that fell most below the champion."""
    parts: dict[Slice, list[SliceResult]] = {}
    for result in measured.slices:
        if result.slice.max_drop is not None:
            parts.setdefault(result.slice, []).append(result)
    return (
        [_slice_check(measured.metric, part, results) for part, results in parts.items()]
        if measured.has_champion
        else []
    )


def _slice_check(metric: str, part: Slice, results: list[SliceResult]) -> Check:
    sign = METRICS[metric].sign
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


def _calibration_checks(gate: Gate, measured: Measurements) -> list[Check]:
    bound, error = gate.calibration_error, measured.calibration_error
    if bound is None:
        return []
    if error is None:
        reason = "the scores are no probabilities, so their calibration is unknown"
        return [Check(name="calibration", level=gate.calibration, passed=False, reason=reason, bound=bound)]
    reason = f"expected calibration error {error:.4f}, at most {bound:g} allowed"
    passed = error <= bound
    return [Check(name="calibration", level=gate.calibration, passed=passed, reason=reason, value=error, bound=bound)]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
