"""The gate's truth table, exhaustively: every interval × champion × support × failing check at each level."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from evermodel.evaluation.gate import BaselineResult, Measurements, judge
from evermodel.evaluation.slices import SliceResult
from evermodel.records import Check, Interval, Verdict
from evermodel.use_case import Gate, Slice

MARGIN = 0.02
INTERVALS = {
    "wholly below 0": (Interval(point=-0.05, low=-0.08, high=-0.01), "reject"),
    "worse and unsure": (Interval(point=-0.01, low=-0.05, high=0.03), "hold"),
    "worse by a hair": (Interval(point=-0.001, low=-0.01, high=0.01), "hold"),
    "touches 0 from below": (Interval(point=-0.01, low=-0.015, high=0.0), "hold"),
    "better and unsure": (Interval(point=0.01, low=-0.03, high=0.05), "hold"),
    "better, bound at the margin": (Interval(point=0.01, low=-MARGIN, high=0.04), "hold"),
    "equal": (Interval(point=0.0, low=0.0, high=0.0), "promote"),
    "better within the margin": (Interval(point=0.01, low=-0.019, high=0.04), "promote"),
    "better": (Interval(point=0.03, low=0.01, high=0.05), "promote"),
    "unknown": (None, "hold"),
}


def measured(**changes: Any) -> Measurements:
    """A challenger with a champion that passes everything."""
    good = Measurements(
        metric="accuracy",
        rows=500,
        has_champion=True,
        model_bytes=1000,
        value=0.8,
        champion_value=0.77,
        difference=INTERVALS["better"][0],
        baselines=(BaselineResult("majority", 0.6, 0.2, 0.17), BaselineResult("boosting", 0.81, -0.01, -0.04)),
    )
    return replace(good, **changes)


def failing(check: str, level: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(gate settings, measurements) under which `check` alone fails, at `level`."""
    match check:
        case "none":
            return {}, {}
        case "baseline":  # the champion beats it: no excuse
            return {"baselines": level}, {"baselines": (BaselineResult("majority", 0.85, -0.05, 0.01),)}
        case "slice":
            part = Slice(field="shop", max_drop=0.05, level=level)  # type: ignore[arg-type]
            return {}, {"slices": (SliceResult(part, "north", 100, 0.6, 0.7),)}
        case "behaviour":
            return {}, {"behaviour": (Check(name="behaviour:x", level=level, passed=False, reason="it moved"),)}  # type: ignore[arg-type]
        case "calibration":
            return {"calibration_error": 0.05, "calibration": level}, {"calibration_error": 0.2}
        case "smoke":
            return {"smoke": level}, {"smoke_failure": "it raised"}
    raise AssertionError(check)


NEED_ROWS = {"baseline", "slice", "calibration"}
CHECKS = ("none", "baseline", "slice", "behaviour", "calibration", "smoke")


@pytest.mark.parametrize(("check", "level"), list(product(CHECKS, ("enforce", "warn"))))
def test_truth_table(check: str, level: str) -> None:
    settings, figures = failing(check, level)
    gate = Gate(margin=MARGIN, minimum_rows=50, **settings)
    for (interval, word), has_champion, rows in product(INTERVALS.values(), (True, False), (500, 50, 49)):
        enough = rows >= 50
        failed = check != "none" and (enough or check not in NEED_ROWS) and (has_champion or check != "slice")
        if failed and level == "enforce":
            expected = "reject"
        elif not enough:
            expected = "hold"
        else:
            expected = word if has_champion else "promote"
        difference = interval if has_champion else None
        found = judge(
            gate, measured(**(figures | {"rows": rows, "has_champion": has_champion, "difference": difference}))
        )
        assert found.word == expected, (check, level, interval, has_champion, rows, found.reasons)
        assert any(not item.passed for item in found.checks) == failed


def verdict(gate: dict[str, Any] | None = None, **changes: Any) -> Verdict:
    return judge(Gate(margin=MARGIN, **(gate or {})), measured(**changes))


def test_size_is_always_enforced_and_may_equal_the_limit() -> None:
    assert verdict({"max_bytes": 1000}).word == "promote"
    too_large = verdict({"max_bytes": 999})
    assert too_large.word == "reject"
    assert "1,000 bytes, at most 999" in too_large.reasons[1]


def test_an_undefined_metric_holds_even_without_a_champion() -> None:
    found = verdict(value=None, difference=None, has_champion=False, baselines=())
    assert found.word == "hold"
    assert "is undefined" in found.reasons[0]


@pytest.mark.parametrize(
    ("name", "difference", "word"),
    [
        ("majority", 0.001, "promote"),
        ("random", 0.0, "reject"),
        ("mean", -0.001, "reject"),
        ("boosting", -MARGIN, "promote"),
        ("boosting", -MARGIN - 0.001, "reject"),
        ("heuristic", -0.019, "promote"),
        ("transition", -0.021, "reject"),
    ],
)
def test_trivial_baselines_must_be_beaten_and_others_within_the_margin(name: str, difference: float, word: str) -> None:
    found = verdict(has_champion=False, difference=None, baselines=(BaselineResult(name, 0.7, difference),))
    assert found.word == word


def test_a_baseline_that_the_champion_loses_to_as_well_only_warns() -> None:
    found = verdict(baselines=(BaselineResult("majority", 0.85, -0.05, -0.08),))
    assert found.word == "promote"
    assert "the champion loses to it too" in found.reasons[1]
    assert "warning" in found.reasons[1]


def test_a_baseline_that_cannot_be_compared_says_why() -> None:
    found = verdict(baselines=(BaselineResult("boosting", None, None, reason="700 classes"),))
    check = next(check for check in found.checks if check.name == "baseline:boosting")
    assert (found.word, check.passed, check.value, check.reason) == ("promote", True, None, "not compared: 700 classes")


def test_the_worst_part_of_a_slice_counts_and_thin_parts_do_not() -> None:
    part = Slice(field="shop", max_drop=0.05, level="enforce", minimum_rows=30)
    fine = SliceResult(part, "north", 90, 0.80, 0.81)
    thin = SliceResult(part, "tiny", 3, None, None)
    assert verdict(slices=(fine, thin)).word == "promote"
    assert "no part has 30 rows" in next(c for c in verdict(slices=(thin,)).checks if c.name == "slice:shop").reason
    fallen = verdict(slices=(fine, SliceResult(part, "south", 60, 0.60, 0.70), thin))
    assert fallen.word == "reject"
    assert "worst at shop: south (60 rows)" in fallen.reasons[1]
    assert verdict(slices=(SliceResult(part, "edge", 60, 0.25, 0.25 + 0.0625),), gate={}).word == "reject"


def test_a_slice_drops_by_rising_if_less_is_better() -> None:
    part = Slice(field="shop", max_drop=0.05, level="enforce")
    risen, fallen = SliceResult(part, "a", 99, 0.9, 0.7), SliceResult(part, "a", 99, 0.7, 0.9)
    assert verdict(metric="log_loss", slices=(risen,)).word == "reject"
    assert verdict(metric="log_loss", slices=(fallen,)).word == "promote"


def test_a_slice_without_max_drop_is_no_check() -> None:
    found = verdict(slices=(SliceResult(Slice(field="shop", level="enforce"), "north", 90, 0.1, 0.9),))
    assert found.word == "promote"
    assert not [check for check in found.checks if check.name.startswith("slice")]


def test_unknown_calibration_does_not_pass() -> None:
    gate = {"calibration_error": 0.05, "calibration": "enforce"}
    assert verdict(gate, calibration_error=0.05).word == "promote"
    found = verdict(gate, calibration_error=None)
    assert found.word == "reject"
    assert "no probabilities" in found.reasons[1]


def test_a_failed_smoke_request_is_the_only_reason() -> None:
    found = verdict(smoke_failure="it raised ValueError", value=None, difference=None, baselines=())
    assert [check.name for check in found.checks] == ["smoke", "size"]
    assert found.reasons == ("enforced checks failed: smoke", "smoke (enforced, failed): it raised ValueError")


def test_every_failed_check_is_a_reason_with_its_figures_enforced_ones_first() -> None:
    gate = {"calibration_error": 0.05, "max_bytes": 10}
    found = verdict(
        gate, calibration_error=0.0875, behaviour=(Check(name="behaviour:b", level="warn", passed=False, reason="r"),)
    )
    assert found.reasons[0] == "enforced checks failed: size"
    assert found.reasons[1].startswith("size (enforced, failed): the packed model has 1,000 bytes")
    assert found.reasons[2:] == (
        "behaviour:b (warning): r",
        "calibration (warning): expected calibration error 0.0875, at most 0.05 allowed",
    )


def test_the_first_reason_has_the_figures() -> None:
    assert verdict().reasons[0] == (
        "accuracy 0.8000 against the champion's 0.7700: difference +0.0300, 95% interval +0.0100 to +0.0500: "
        "at least as good, and its lower bound is above −0.02"
    )


def test_a_verdict_survives_json() -> None:
    assert Verdict.from_json(verdict().to_json()) == verdict()
