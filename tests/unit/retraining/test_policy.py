"""The policy: each rule alone keeps the champion, and no training window holds broken data."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermodel.records import Alert, Decision, Diagnosis, MonitoredWindow, PolicyState, Window
from evermodel.retraining.policy import cut_windows, decide, make_schedule_alert
from evermodel.use_case import UseCase, parse_duration

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = START + 10 * DAY


@pytest.fixture(scope="session")
def case(electricity: UseCase) -> UseCase:
    return with_policy(electricity)


def with_policy(case: UseCase, **policy: Any) -> UseCase:
    settings = {"k": 1, "n": 1, "cooldown": 0, "minimum_new_rows": 100, "schedule": None, "mode": "stateful"} | policy
    return case.model_copy(update={"retraining": case.retraining.model_copy(update=settings)})


def day(number: int) -> Window:
    return Window(start=START + number * DAY, end=START + (number + 1) * DAY)


def alert(
    number: int, diagnosis: Diagnosis = "covariate_shift", kind: Any = "feature_drift", champion: str | None = "a"
) -> Alert:
    return Alert(use_case="electricity", kind=kind, window=day(number), champion=champion, diagnosis=diagnosis)


def policy_state(*alerted: bool, **changes: Any) -> PolicyState:
    """Champion `a` since START, one window for each day, and 500 new rows."""
    recent = tuple(MonitoredWindow(window=day(i), alerted=flag) for i, flag in enumerate(alerted))
    values: dict[str, Any] = {
        "use_case": "electricity",
        "champion": "a",
        "champion_cursor": START,
        "champion_since": START,
        "new_rows": 500,
        "recent": recent,
    }
    return PolicyState(**values | changes)


def retrained(number: int, champion: str = "a", at: datetime = NOW - DAY) -> Decision:
    return Decision(
        use_case="electricity",
        at=at,
        action="retrain",
        reason="drift",
        champion=champion,
        windows=(Window(start=START, end=day(number).end),),
        trigger=day(number),
    )


def test_an_alert_retrains_on_all_new_rows_up_to_its_window_end(case: UseCase) -> None:
    found = decide(case, [alert(2)], policy_state(False, False, True), now=NOW)
    assert (found.action, found.champion, found.mode, found.diagnosis) == (
        "retrain",
        "a",
        "stateful",
        "covariate_shift",
    )
    assert found.windows == (Window(start=START, end=day(2).end),)
    assert found.trigger == day(2)
    assert found.alerts == (alert(2).id,)
    assert "feature_drift" in found.reason
    assert "500 new rows" in found.reason


BROKEN = alert(3, "broken_data", "data_quality")
COOL = {"cooldown": parse_duration("2d")}
RULES: list[tuple[str, dict[str, Any], list[Alert], PolicyState, str]] = [
    (
        "no champion",
        {},
        [alert(2, champion=None)],
        policy_state(champion=None, champion_cursor=None),
        "no champion yet",
    ),
    ("running", {}, [alert(2)], policy_state(running=True), "one at a time"),
    ("running, by hand", {}, [alert(2, kind="manual")], policy_state(running=True), "one at a time"),
    ("no alert", {}, [], policy_state(), "no alert against champion a"),
    ("another champion's alert", {}, [alert(2, champion="b")], policy_state(), "no alert against champion a"),
    ("broken", {}, [alert(2), BROKEN], policy_state(False, False, True, True), "quarantined and never trained on"),
    ("broken and drifted", {}, [alert(3), BROKEN], policy_state(False, False, True, True), "quarantined"),
    ("broken after a manual alert", {}, [alert(2, kind="manual"), BROKEN], policy_state(), "quarantined"),
    (
        "not this diagnosis",
        {"diagnoses": ("concept_shift",)},
        [alert(2)],
        policy_state(),
        "covariate_shift doesn't retrain",
    ),
    (
        "k of n",
        {"k": 2, "n": 3},
        [alert(2)],
        policy_state(False, False, True),
        "1 of the last 3 windows alerted; 2 are",
    ),
    (
        "k of n, too long ago",
        {"k": 2, "n": 2},
        [alert(0), alert(2)],
        policy_state(True, False, True),
        "1 of the last 2",
    ),
    ("quiet since", {}, [alert(1)], policy_state(False, True, False), "0 of the last 1 windows alerted"),
    ("cooldown", COOL, [alert(9)], policy_state(last_retrain=retrained(4), last_retrain_state="held"), "cooling down"),
    ("cooldown after a promotion", COOL, [alert(9)], policy_state(last_retrain=retrained(8, "old")), "cooling down"),
    ("too few rows", {}, [alert(2)], policy_state(new_rows=99), "99 new rows; 100 are needed"),
    ("nothing new, by hand", {}, [alert(2, kind="manual")], policy_state(new_rows=0), "no matured row is new"),
    (
        "all broken",
        {},
        [alert(2)],
        policy_state(quarantined=(Window(start=START, end=day(3).start),)),
        "nothing to train on",
    ),
    ("before the cursor", {}, [alert(2)], policy_state(champion_cursor=day(2).end), "nothing to train on"),
    (
        "answered",
        {},
        [alert(2)],
        policy_state(last_retrain=retrained(2), last_retrain_state="held"),
        r"answered .* \(held\)",
    ),
    (
        "failed is answered",
        {},
        [alert(2)],
        policy_state(last_retrain=retrained(2), last_retrain_state="failed"),
        "failed",
    ),
]


@pytest.mark.parametrize(
    ("policy", "alerts", "at", "why"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
)
def test_each_rule_keeps(case: UseCase, policy: dict[str, Any], alerts: list[Alert], at: PolicyState, why: str) -> None:
    found = decide(with_policy(case, **policy), alerts, at, now=NOW)
    assert found.action == "keep"
    assert found.windows == ()
    assert (found.diagnosis is None) == (found.alerts == ()), "without an alert nothing was diagnosed"
    assert re.search(why, found.reason), found.reason


PASSES: list[tuple[str, dict[str, Any], list[Alert], PolicyState]] = [
    ("k of n reached", {"k": 2, "n": 3}, [alert(0), alert(2)], policy_state(True, False, True)),
    ("alerts count where the window wasn't recorded", {"k": 2, "n": 2}, [alert(1), alert(2)], policy_state()),
    ("cooldown over", COOL, [alert(9)], policy_state(last_retrain=retrained(4, at=NOW - 2 * DAY), last_retrain_state="held")),
    ("just enough rows", {}, [alert(2)], policy_state(new_rows=100)),
    ("one of its diagnoses is enough", {"diagnoses": ("concept_shift",)}, [alert(2), alert(2, "concept_shift", "performance")], policy_state()),
    ("a newer alert after an answered one", {}, [alert(2), alert(3)], policy_state(last_retrain=retrained(2), last_retrain_state="held")),
    ("an older champion's retrain answers nothing", {}, [alert(2)], policy_state(last_retrain=retrained(5, "old"))),
    ("by hand: no k of n, no cooldown, few rows", {"k": 2, "n": 3} | COOL, [alert(9, "unknown", "manual")], policy_state(new_rows=1, last_retrain=retrained(4), last_retrain_state="held")),
    ("scheduled: no k of n", {"k": 2, "n": 3, "diagnoses": ("concept_shift",)}, [alert(9, "unknown", "schedule")], policy_state()),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "alerts", "at"), [rule[1:] for rule in PASSES], ids=[rule[0] for rule in PASSES])
def test_each_rule_can_pass(case: UseCase, policy: dict[str, Any], alerts: list[Alert], at: PolicyState) -> None:
    found = decide(with_policy(case, **policy), alerts, at, now=NOW)
    assert found.action == "retrain", found.reason
    assert found.trigger == alerts[-1].window


@pytest.mark.parametrize(
    ("policy", "at", "why"),
    [
        (COOL, policy_state(last_retrain=retrained(4), last_retrain_state="held"), "cooling down"),
        ({}, policy_state(new_rows=99), "99 new rows"),
    ],
)
def test_a_schedule_skips_k_of_n_and_nothing_else(
    case: UseCase, policy: dict[str, Any], at: PolicyState, why: str
) -> None:
    found = decide(with_policy(case, **policy), [alert(9, "unknown", "schedule")], at, now=NOW)
    assert found.action == "keep"
    assert why in found.reason


def test_broken_windows_under_any_champion_are_cut_out(case: UseCase) -> None:
    older = alert(0, "broken_data", "data_quality", champion="old")
    own = alert(2, "broken_data", "data_quality")
    found = decide(case, [older, own, alert(4)], policy_state(quarantined=(day(1),)), now=NOW)
    assert found.action == "retrain"
    assert found.windows == (Window(start=day(3).start, end=day(4).end),)


def test_a_broken_window_in_the_middle_leaves_both_sides(case: UseCase) -> None:
    found = decide(case, [alert(1, "broken_data", "data_quality"), alert(3)], policy_state(), now=NOW)
    assert found.windows == (day(0), Window(start=day(2).start, end=day(3).end))


def test_the_order_of_alerts_does_not_change_the_reason_for_a_broken_window(case: UseCase) -> None:
    two = [alert(3, "broken_data", "data_quality"), alert(3, "broken_data", "feature_drift")]
    found = decide(case, two, policy_state(), now=NOW)
    assert found == decide(case, two[::-1], policy_state(), now=NOW)
    assert "(data_quality, feature_drift)" in found.reason


def test_a_broken_window_is_no_evidence_of_drift(case: UseCase) -> None:
    strict = with_policy(case, k=2, n=2)
    alerts = [alert(2, "broken_data", "data_quality"), alert(3)]
    assert decide(strict, alerts, policy_state(False, False, True, True), now=NOW).action == "keep"


def test_a_person_may_retrain_over_a_broken_window_but_not_on_it(case: UseCase) -> None:
    found = decide(case, [alert(3, "unknown", "manual"), BROKEN], policy_state(), now=NOW)
    assert found.action == "retrain"
    assert found.windows == (Window(start=START, end=day(3).start),)
    assert "by hand" in found.reason


def test_the_mode_comes_from_the_use_case(case: UseCase) -> None:
    assert decide(with_policy(case, mode="from_scratch"), [alert(2)], policy_state(), now=NOW).mode == "from_scratch"


def test_a_decision_is_the_same_row_until_its_run_ends(case: UseCase) -> None:
    first = decide(case, [alert(2)], policy_state(), now=NOW)
    recorded = policy_state(last_retrain=first, last_retrain_state="pending")
    assert decide(case, [alert(2)], recorded, now=NOW + DAY) == first
    newer = decide(case, [alert(2), alert(3)], recorded, now=NOW + DAY)
    assert newer.retrain_key != first.retrain_key
    assert decide(case, [], recorded, now=NOW + DAY).action == "keep"


def test_a_pending_decision_is_dropped_if_its_window_turns_out_broken(case: UseCase) -> None:
    first = decide(case, [alert(2)], policy_state(), now=NOW)
    recorded = policy_state(last_retrain=first, last_retrain_state="pending")
    found = decide(case, [alert(2), alert(2, "broken_data", "data_quality")], recorded, now=NOW)
    assert found.action == "keep"


# schedule ------------------------------------------------------------------------------------------------------------


def test_a_schedule_is_due_once_in_each_period(case: UseCase) -> None:
    weekly = with_policy(case, schedule=parse_duration("7d"))
    assert make_schedule_alert(case, policy_state(), now=NOW) is None
    assert make_schedule_alert(weekly, policy_state(), now=START + 7 * DAY - timedelta(microseconds=1)) is None
    assert make_schedule_alert(weekly, policy_state(champion_since=None), now=NOW) is None
    first = make_schedule_alert(weekly, policy_state(), now=START + 7 * DAY)
    assert first is not None
    assert first.kind == "schedule"
    assert first.window == Window(start=START, end=START + 7 * DAY)
    again = make_schedule_alert(weekly, policy_state(), now=START + 13 * DAY)
    assert again is not None
    assert again.id == first.id
    second = make_schedule_alert(weekly, policy_state(), now=START + 14 * DAY)
    assert second is not None
    assert second.id != first.id
    found = decide(weekly, [first], policy_state(), now=START + 8 * DAY)
    assert found.action == "retrain"
    assert found.reason == "the champion is older than the schedule of 7d; 500 new rows"


# properties ----------------------------------------------------------------------------------------------------------

numbers = st.integers(0, 6)
alerts_ = st.builds(
    alert,
    numbers,
    st.sampled_from(["broken_data", "covariate_shift", "label_shift", "concept_shift", "unknown"]),
    st.sampled_from(["data_quality", "feature_drift", "performance", "manual", "schedule"]),
    st.sampled_from(["a", "old"]),
)
policy_states = st.builds(
    lambda flags, rows, running, broken, last: policy_state(
        *flags, new_rows=rows, running=running, quarantined=tuple(day(i) for i in broken),
        last_retrain=None if last is None else retrained(last[0], last[1]),
        last_retrain_state=None if last is None else last[2],
    ),
    st.lists(st.booleans(), max_size=7),
    st.integers(0, 300),
    st.booleans(),
    st.sets(numbers, max_size=3),
    st.none() | st.tuples(numbers, st.sampled_from(["a", "old"]), st.sampled_from(["pending", "held", "promoted"])),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(alerts=st.lists(alerts_, max_size=6), at=policy_states, k=st.integers(1, 2), seed=st.randoms())
def test_decide_is_pure_and_never_trains_on_broken_data(
    case: UseCase, alerts: list[Alert], at: PolicyState, k: int, seed: Any
) -> None:
    policy = with_policy(case, k=k, n=3)
    found = decide(policy, alerts, at, now=NOW)
    assert decide(policy, alerts, at, now=NOW) == found
    shuffled = seed.sample(alerts, len(alerts))
    assert decide(policy, shuffled, at, now=NOW) == found, "the order in which alerts come doesn't matter"
    broken = {alert.window for alert in alerts if alert.diagnosis == "broken_data"} | set(at.quarantined)
    for window in found.windows:
        assert at.champion_cursor is not None
        assert at.champion_cursor <= window.start
        assert all(window.end <= bad.start or bad.end <= window.start for bad in broken)
    if found.action == "retrain":
        assert found.windows
        assert not at.running
    recorded = at.model_copy(update={"last_retrain": found, "last_retrain_state": "pending"})
    if found.action == "retrain" and not at.running:
        assert decide(policy, alerts, recorded, now=NOW + DAY) == found, (
            "a recorded decision is returned as the same row"
        )


@given(broken=st.lists(st.tuples(st.integers(-3, 12), st.integers(1, 5)), max_size=5))
def test_cut_windows_removes_exactly_the_broken_windows(broken: list[tuple[int, int]]) -> None:
    bad = [Window(start=START + low * DAY, end=START + (low + span) * DAY) for low, span in broken]
    left = cut_windows(START, START + 10 * DAY, bad)
    for number in range(10):
        kept = any(window.start <= day(number).start and day(number).end <= window.end for window in left)
        assert kept != any(window.start <= day(number).start < window.end for window in bad)
    assert all(first.end < second.start for first, second in pairwise(left))
