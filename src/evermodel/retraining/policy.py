"""The policy: whether to train again, on which windows, and why (or why not).

`decide` is a pure function of the use case, its alerts, its policy state and `now`. The rules stand in the
order in which they are asked; the first that fails keeps the champion, and says so in words that name the figures.

An alert is answered when a retrain of its champion was decided with a trigger that ends no earlier than the alert's
window. A decision whose run never ended is given again, as the same row, so that a crash in between loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from evermodel.records import Alert, Decision, Diagnosis, MonitoredWindow, PolicyState, Window
from evermodel.use_case import UseCase, format_duration

# Which one a retrain is about where a window has several: the one that says most about the model.
GRAVITY: tuple[Diagnosis, ...] = ("broken_data", "concept_shift", "label_shift", "covariate_shift", "unknown")


def decide(use_case: UseCase, alerts: Sequence[Alert], state: PolicyState, *, now: datetime) -> Decision:
    """`retrain` with windows, trigger and mode, or `keep`; the reason in plain words either way.

    `alerts` may be of any champion: an older one's say nothing about the present model, but the windows that were
    diagnosed as broken data are cut out of the training windows whoever saw them.
    """
    if state.champion is None or state.champion_cursor is None:
        return _keep(state, now, "there is no champion yet: train the first one by hand or by the training pipeline")
    if state.running:
        return _keep(state, now, "a retrain is running; one at a time")
    broken = _broken(alerts, state)
    own = [alert for alert in alerts if alert.champion == state.champion]
    fresh = [alert for alert in own if not _answered(alert, state)]
    if not fresh:
        return _unanswered_decision(own, broken, state) or _keep(state, now, _quiet(state))
    end = max(alert.window.end for alert in fresh)
    newest = [alert for alert in fresh if alert.window.end == end]
    about = _gravest(newest, use_case.retraining.diagnoses)
    objection = _objection(use_case, fresh, newest, broken, state, now=now)
    if objection is not None:
        return _keep(state, now, objection, about=about, alerts=fresh)
    windows = cut_windows(state.champion_cursor, end, broken)
    if not windows:
        reason = f"nothing to train on: {_span(state.champion_cursor, end)} is empty once broken windows are cut out"
        return _keep(state, now, reason, about=about, alerts=fresh)
    return Decision(
        use_case=state.use_case,
        at=now,
        action="retrain",
        reason=_reason(use_case, fresh, about, state),
        champion=state.champion,
        windows=windows,
        trigger=about.window,
        mode=use_case.retraining.mode,
        diagnosis=about.diagnosis,
        alerts=_ids(fresh),
    )


def make_schedule_alert(use_case: UseCase, state: PolicyState, *, now: datetime) -> Alert | None:
    """The alert of kind `schedule` that is due at `now`; None where the champion is younger than the schedule.

    One for each whole period of the champion's age: asked twice in a period it is the same alert, and a champion that
    was kept comes up again a period later.
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
    """[start, end) without the broken windows: what is left, in order; nothing where nothing is."""
    left: list[Window] = []
    for window in sorted(broken, key=lambda one: one.start):
        stop = min(window.start, end)
        if start < stop:
            left.append(Window(start=start, end=stop))
        start = max(start, window.end)
    if start < end:
        left.append(Window(start=start, end=end))
    return tuple(left)


# the rules, in order ------------------------------------------------------------------------------------------------


def _objection(
    use_case: UseCase,
    fresh: Sequence[Alert],
    newest: Sequence[Alert],
    broken: frozenset[Window],
    state: PolicyState,
    *,
    now: datetime,
) -> str | None:
    """Why not, by the first rule that says so. `newest` are the alerts of the newest window among the `fresh` ones."""
    policy = use_case.retraining
    asked = {alert.kind for alert in fresh}
    if not any(alert.kind == "manual" for alert in newest):
        bad = [alert for alert in newest if alert.diagnosis == "broken_data"]
        if bad:
            where = min((alert.window for alert in bad), key=lambda window: window.start)
            kinds = ", ".join(sorted({alert.kind for alert in bad}))
            return f"broken data in {where} ({kinds}): the window is quarantined and never trained on"
    if "manual" in asked:
        return None if state.new_rows else "no matured row is new to the champion"
    if "schedule" not in asked:
        found = {alert.diagnosis for alert in newest}
        if not found & set(policy.diagnoses):
            return f"diagnosis {', '.join(sorted(found))} doesn't retrain; {', '.join(policy.diagnoses)} would"
        if (alerted := _alerted(fresh, broken, state, policy.n)) < policy.k:
            return f"{alerted} of the last {policy.n} windows alerted; {policy.k} are needed"
    return _too_soon(use_case, state, now) or _too_few(use_case, state)


def _alerted(fresh: Sequence[Alert], broken: frozenset[Window], state: PolicyState, n: int) -> int:
    """How many of the last n monitored windows alerted. A broken window says nothing about the model: it counts as
    monitored, not as alerted."""
    known = {one.window: one for one in state.recent}
    known |= {alert.window: MonitoredWindow(window=alert.window, alerted=True) for alert in fresh}
    last = sorted(known.values(), key=lambda one: (one.window.end, one.window.start))[-n:]
    return sum(one.alerted and one.window not in broken for one in last)


def _too_soon(use_case: UseCase, state: PolicyState, now: datetime) -> str | None:
    if state.last_retrain is None:
        return None
    over = state.last_retrain.at + timedelta(microseconds=use_case.retraining.cooldown)
    return f"cooling down since the last retrain until {over:%Y-%m-%dT%H:%M:%SZ}" if now < over else None


def _too_few(use_case: UseCase, state: PolicyState) -> str | None:
    least = use_case.retraining.minimum_new_rows
    return f"{state.new_rows} new rows; {least} are needed" if state.new_rows < least else None


# what the rules are asked about -------------------------------------------------------------------------------------


def _answered(alert: Alert, state: PolicyState) -> bool:
    """By the last retrain, or by one before it: a champion that was put back isn't trained again for what it once met."""
    last = state.last_retrain
    own = last is not None and last.champion == state.champion
    ends = [state.answered, last.trigger.end if last and last.trigger and own else None]
    return any(end is not None and alert.window.end <= end for end in ends)


def _unanswered_decision(own: Sequence[Alert], broken: frozenset[Window], state: PolicyState) -> Decision | None:
    """The decision that these alerts led to, where its run never ended: asking twice is the same row.

    Not where one of its windows turned out to be broken since.
    """
    last = state.last_retrain
    if last is None or last.trigger is None or state.last_retrain_state != "pending" or not own:
        return None
    same = max(alert.window.end for alert in own) == last.trigger.end
    overlap = any(window.start < bad.end and bad.start < window.end for window in last.windows for bad in broken)
    return last if same and not overlap else None


def _broken(alerts: Sequence[Alert], state: PolicyState) -> frozenset[Window]:
    found = {alert.window for alert in alerts if alert.diagnosis == "broken_data"}
    return frozenset(found | set(state.quarantined))


def _gravest(newest: Sequence[Alert], acting: Sequence[Diagnosis]) -> Alert:
    """A person's word first, then what may be acted on, then what says most about the model; the id settles ties, so
    that the order in which alerts come doesn't matter."""

    def rank(alert: Alert) -> tuple[bool, bool, int, datetime, str]:
        acted_on = alert.diagnosis in acting or alert.diagnosis == "broken_data"
        return alert.kind != "manual", not acted_on, GRAVITY.index(alert.diagnosis), alert.window.start, alert.id

    return min(newest, key=rank)


# how it is said -----------------------------------------------------------------------------------------------------


def _quiet(state: PolicyState) -> str:
    last = state.last_retrain
    if last is not None and last.trigger is not None and last.champion == state.champion:
        return f"no alert after {last.trigger}, which was answered by a retrain ({state.last_retrain_state})"
    if state.answered is not None:
        return f"no alert after {state.answered:%Y-%m-%dT%H:%M:%SZ}; what came before was answered by a retrain"
    return f"no alert against champion {state.champion}"


def _reason(use_case: UseCase, fresh: Sequence[Alert], about: Alert, state: PolicyState) -> str:
    policy = use_case.retraining
    kinds = ", ".join(sorted({alert.kind for alert in fresh if alert.window == about.window}))
    if any(alert.kind == "manual" for alert in fresh):
        why = "asked for by hand"
    elif any(alert.kind == "schedule" for alert in fresh):
        why = f"the champion is older than the schedule of {format_duration(policy.schedule or 0)}"
    else:
        why = (
            f"{about.diagnosis}: {kinds} in {about.window}, at least {policy.k} of the last {policy.n} windows alerted"
        )
    return f"{why}; {state.new_rows} new rows"


def _keep(
    state: PolicyState, now: datetime, reason: str, *, about: Alert | None = None, alerts: Sequence[Alert] = ()
) -> Decision:
    return Decision(
        use_case=state.use_case,
        at=now,
        action="keep",
        reason=reason,
        champion=state.champion,
        trigger=about.window if about else None,
        diagnosis=about.diagnosis if about else "unknown",
        alerts=_ids(alerts),
    )


def _ids(alerts: Sequence[Alert]) -> tuple[str, ...]:
    return tuple(sorted({alert.id for alert in alerts}))


def _span(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%M:%SZ}..{end:%Y-%m-%dT%H:%M:%SZ}"
