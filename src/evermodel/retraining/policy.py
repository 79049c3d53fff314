"""The policy: whether to retrain, on which windows, and why (or why not).

`decide` is a pure function of the use case, its alerts, its policy state and `now`. It checks the rules in their order in
this file. The first rule that fails keeps the champion, and the reason names its figures.

A retrain answers an alert if it was decided for the alert's champion, with a trigger that ends no earlier than the
alert's window. A decision without a finished run is returned again as the same row, so a crash loses no decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from evermodel.records import Alert, Decision, Diagnosis, MonitoredWindow, PolicyState, Window
from evermodel.use_case import UseCase, format_duration

# If the newest window has several alerts, the decision is about the first diagnosis of this order.
SEVERITY: tuple[Diagnosis, ...] = ("broken_data", "concept_shift", "label_shift", "covariate_shift", "unknown")


def decide(use_case: UseCase, alerts: Sequence[Alert], state: PolicyState, *, now: datetime) -> Decision:
    """`retrain` with windows, trigger and mode, or `keep`; either with the reason in plain words.

    `alerts` may be of any champion. Alerts of an earlier champion don't count against the present one, but every window
    that was diagnosed as broken data is cut out of the training windows.
    """
    if state.champion is None or state.champion_cursor is None:
        return _keep(state, now, "there is no champion yet: train the first one by hand or by the training pipeline")
    if state.running:
        return _keep(state, now, "a retrain is running; one at a time")
    broken = _broken_windows(alerts, state)
    own = [alert for alert in alerts if alert.champion == state.champion]
    fresh = [alert for alert in own if not _is_answered(alert, state)]
    if not fresh:
        return _find_pending_decision(own, broken, state) or _keep(state, now, _explain_no_alert(state))
    end = max(alert.window.end for alert in fresh)
    newest = [alert for alert in fresh if alert.window.end == end]
    main = _most_severe(newest, use_case.retraining.diagnoses)
    objection = _find_objection(use_case, fresh, newest, broken, state, now=now)
    if objection is not None:
        return _keep(state, now, objection, main=main, alerts=fresh)
    windows = cut_windows(state.champion_cursor, end, broken)
    if not windows:
        reason = f"nothing to train on: {_span(state.champion_cursor, end)} is empty once broken windows are cut out"
        return _keep(state, now, reason, main=main, alerts=fresh)
    return Decision(
        use_case=state.use_case,
        at=now,
        action="retrain",
        reason=_explain_retrain(use_case, fresh, main, state),
        champion=state.champion,
        windows=windows,
        trigger=main.window,
        mode=use_case.retraining.mode,
        diagnosis=main.diagnosis,
        alerts=_ids(fresh),
    )


def make_schedule_alert(use_case: UseCase, state: PolicyState, *, now: datetime) -> Alert | None:
    """The alert of kind `schedule` that is due at `now`; None if the champion is younger than the schedule.

    There is one alert for each whole period of the champion's age, so a champion that was kept is due again one period
    later.
    """
    schedule, since = use_case.retraining.schedule, state.champion_since
    if schedule is None or since is None:
        return None
    period = timedelta(microseconds=schedule)
    periods = (now - since) // period
    if periods < 1:
        return None
    window = Window(start=since + (periods - 1) * period, end=since + periods * period)
    evidence = {"schedule": format_duration(schedule), "champion_since": since.isoformat(), "periods": periods}
    return Alert(use_case=use_case.name, kind="schedule", window=window, champion=state.champion, evidence=evidence)


def cut_windows(start: datetime, end: datetime, broken: Iterable[Window]) -> tuple[Window, ...]:
    """[start, end) without the broken windows, in order; empty if nothing remains."""
    windows: list[Window] = []
    for window in sorted(broken, key=lambda window: window.start):
        stop = min(window.start, end)
        if start < stop:
            windows.append(Window(start=start, end=stop))
        start = max(start, window.end)
    if start < end:
        windows.append(Window(start=start, end=end))
    return tuple(windows)


# the rules, in order ------------------------------------------------------------------------------------------------


def _find_objection(
    use_case: UseCase,
    fresh: Sequence[Alert],
    newest: Sequence[Alert],
    broken: frozenset[Window],
    state: PolicyState,
    *,
    now: datetime,
) -> str | None:
    """The reason of the first rule that fails; None if all pass. `newest` are the `fresh` alerts of the newest window."""
    policy = use_case.retraining
    kinds = {alert.kind for alert in fresh}
    if not any(alert.kind == "manual" for alert in newest) and (reason := _check_quality(newest)):
        return reason
    if "manual" in kinds:
        return None if state.new_rows else "no matured row is new to the champion"
    if "schedule" not in kinds:
        found = {alert.diagnosis for alert in newest}
        if not found & set(policy.diagnoses):
            return f"diagnosis {', '.join(sorted(found))} doesn't retrain; {', '.join(policy.diagnoses)} would"
        if (alerted := _count_alerted(fresh, broken, state, policy.n)) < policy.k:
            return f"{alerted} of the last {policy.n} windows alerted; {policy.k} are needed"
    return _check_cooldown(use_case, state, now) or _check_new_rows(use_case, state)


def _check_quality(newest: Sequence[Alert]) -> str | None:
    broken = [alert for alert in newest if alert.diagnosis == "broken_data"]
    if not broken:
        return None
    window = min((alert.window for alert in broken), key=lambda window: window.start)
    kinds = ", ".join(sorted({alert.kind for alert in broken}))
    return f"broken data in {window} ({kinds}): the window is quarantined and never trained on"


def _count_alerted(fresh: Sequence[Alert], broken: frozenset[Window], state: PolicyState, n: int) -> int:
    """How many of the last n monitored windows alerted.

    A broken window is one of the n but doesn't count as alerted, because it is no evidence about the model.
    """
    monitored = {recent.window: recent for recent in state.recent}
    monitored |= {alert.window: MonitoredWindow(window=alert.window, alerted=True) for alert in fresh}
    last = sorted(monitored.values(), key=lambda recent: (recent.window.end, recent.window.start))[-n:]
    return sum(recent.alerted and recent.window not in broken for recent in last)


def _check_cooldown(use_case: UseCase, state: PolicyState, now: datetime) -> str | None:
    if state.last_retrain is None:
        return None
    over = state.last_retrain.at + timedelta(microseconds=use_case.retraining.cooldown)
    return f"cooling down since the last retrain until {over:%Y-%m-%dT%H:%M:%SZ}" if now < over else None


def _check_new_rows(use_case: UseCase, state: PolicyState) -> str | None:
    least = use_case.retraining.minimum_new_rows
    return f"{state.new_rows} new rows; {least} are needed" if state.new_rows < least else None


# what the rules need -------------------------------------------------------------------------------------------------


def _is_answered(alert: Alert, state: PolicyState) -> bool:
    """Whether a retrain of this champion answered the alert: the last one, or one before it.

    A champion that a rollback put back is not retrained for the alerts of its first time.
    """
    last = state.last_retrain
    own = last is not None and last.champion == state.champion
    ends = [state.answered, last.trigger.end if last and last.trigger and own else None]
    return any(end is not None and alert.window.end <= end for end in ends)


def _find_pending_decision(own: Sequence[Alert], broken: frozenset[Window], state: PolicyState) -> Decision | None:
    """The decision on these alerts if its run has not finished; None if one of its windows is now known as broken."""
    last = state.last_retrain
    if last is None or last.trigger is None or state.last_retrain_state != "pending" or not own:
        return None
    same = max(alert.window.end for alert in own) == last.trigger.end
    overlap = any(window.start < bad.end and bad.start < window.end for window in last.windows for bad in broken)
    return last if same and not overlap else None


def _broken_windows(alerts: Sequence[Alert], state: PolicyState) -> frozenset[Window]:
    found = {alert.window for alert in alerts if alert.diagnosis == "broken_data"}
    return frozenset(found | set(state.quarantined))


def _most_severe(newest: Sequence[Alert], diagnoses: Sequence[Diagnosis]) -> Alert:
    """The alert that the decision is about: a person's request first, then `diagnoses` and broken data, then by severity.

    The id breaks ties, so the order of the alerts doesn't matter.
    """

    def rank(alert: Alert) -> tuple[bool, bool, int, datetime, str]:
        can_act = alert.diagnosis in diagnoses or alert.diagnosis == "broken_data"
        return alert.kind != "manual", not can_act, SEVERITY.index(alert.diagnosis), alert.window.start, alert.id

    return min(newest, key=rank)


# reasons ------------------------------------------------------------------------------------------------------------


def _explain_no_alert(state: PolicyState) -> str:
    """The reason of a keep without alerts. It starts with "no alert": the pages and the demo recognise it by that."""
    last = state.last_retrain
    if last is not None and last.trigger is not None and last.champion == state.champion:
        return f"no alert after {last.trigger}, which was answered by a retrain ({state.last_retrain_state})"
    if state.answered is not None:
        return f"no alert after {state.answered:%Y-%m-%dT%H:%M:%SZ}; a retrain answered the earlier ones"
    return f"no alert against champion {state.champion}"


def _explain_retrain(use_case: UseCase, fresh: Sequence[Alert], main: Alert, state: PolicyState) -> str:
    policy = use_case.retraining
    kinds = ", ".join(sorted({alert.kind for alert in fresh if alert.window == main.window}))
    if any(alert.kind == "manual" for alert in fresh):
        why = "asked for by hand"
    elif any(alert.kind == "schedule" for alert in fresh):
        why = f"the champion is older than the schedule of {format_duration(policy.schedule or 0)}"
    else:
        why = f"{main.diagnosis}: {kinds} in {main.window}, at least {policy.k} of the last {policy.n} windows alerted"
    return f"{why}; {state.new_rows} new rows"


def _keep(
    state: PolicyState, now: datetime, reason: str, *, main: Alert | None = None, alerts: Sequence[Alert] = ()
) -> Decision:
    return Decision(
        use_case=state.use_case,
        at=now,
        action="keep",
        reason=reason,
        champion=state.champion,
        trigger=main.window if main else None,
        diagnosis=main.diagnosis if main else None,
        alerts=_ids(alerts),
    )


def _ids(alerts: Sequence[Alert]) -> tuple[str, ...]:
    return tuple(sorted({alert.id for alert in alerts}))


def _span(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%M:%SZ}..{end:%Y-%m-%dT%H:%M:%SZ}"
