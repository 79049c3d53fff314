"""Live a history as if it were happening, once for each policy, and compare: how often should I retrain, and how?

In order of event time, each monitoring window is served by the champion of that moment. At the window's end monitoring
looks at it with the labels that are known by then; the policy decides; a retraining and the gate follow; the new champion
serves from the next window on. Every policy starts from one identical first champion. One process, the plain loop.

The feature rows of the whole history are computed once: they are point-in-time, so they don't depend on when they are
computed, and labels are masked to what has matured at each moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel import bundle, storage
from evermodel.clock import from_micros, micros
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest
from evermodel.errors import EvermodelError
from evermodel.features.as_served import as_served
from evermodel.evaluation.metrics import metric_of
from evermodel.features import training_set
from evermodel.ledger import Ledger
from evermodel.monitoring.cohorts import mask_unmatured
from evermodel.monitoring.drift import Reference
from evermodel.monitoring.monitor import monitor
from evermodel.records import RUN_STATES, Alert, Decision, Release, Window, canonical_json
from evermodel.registry.promotion import promote
from evermodel.retraining.policy import decide, schedule_alert
from evermodel.retraining.rounds import Turn, run_round
from evermodel.serving.batch import score_rows
from evermodel.use_case import UseCase

PolicyName = Literal["stateful", "from_scratch", "static"]
POLICIES: tuple[PolicyName, ...] = ("stateful", "from_scratch", "static")
Progress = Callable[[str], None]


@dataclass
class Life:
    """One policy's life: the champion of the moment and what has happened so far."""

    policy: PolicyName
    use_case: UseCase
    ledger: Ledger
    out: str
    champion: bundle.OpenRelease
    reference: Reference
    served: list[tuple[Window, pa.Table, str]] = field(default_factory=list)
    looked: datetime | None = None
    alerts: list[Alert] = field(default_factory=list)
    retrains: list[dict[str, Any]] = field(default_factory=list)
    rows_trained: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class History:
    """All feature rows of a use case, in event-time order, with every label that ever became known."""

    rows: pa.Table
    times: np.ndarray  # int64[n], microseconds
    data_version: str
    end: datetime
    log: EventLog

    def between(self, window: Window) -> pa.Table:
        low, high = np.searchsorted(self.times, window.span)
        return self.rows.slice(low, high - low)


def run_backtest(
    use_case: UseCase,
    *,
    data_dir: str | Path,
    out: str | Path,
    policies: Sequence[PolicyName] = POLICIES,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Simulate every policy, and write the result to `backtest.json` in `out`, too.

    EvermodelError where the use case names no `training.first`, or its first champion doesn't pass its own checks.
    """
    if use_case.training.first is None:
        raise EvermodelError(f"{use_case.name}: a backtest needs training.first, the window of the first champion")
    history = read_history(use_case, data_dir=data_dir, out=str(out), progress=progress)
    first = first_champion(use_case, history, out=storage.join(out, "first"))
    progress(
        f"first champion {first.trained.release.id}: {first.report.metric} {first.report.metrics[first.report.metric]:.4f}"
    )
    lives = [_live(use_case, history, first, policy, str(out), progress) for policy in policies]
    result = {
        "use_case": use_case.name,
        "metric": use_case.evaluation.metric,
        "policies": [_story(life, history) for life in lives],
    }
    storage.write_text(storage.join(out, "backtest.json"), canonical_json(result))
    return result


def read_history(use_case: UseCase, *, data_dir: str | Path, out: str, progress: Progress) -> History:
    """Ingest every source (once: a second replay finds it) and compute all rows."""
    log = EventLog(storage.join(out, "events"), use_case.sources)
    for source in use_case.sources:
        report = ingest(use_case, source.name, log, data_dir=str(data_dir), now=from_micros(0))
        progress(f"{source.name}: {report.applied} applied, {report.duplicate} duplicate, {report.rejected} rejected")
    newest = max(micros(pc.max(log.read(source.name)["event_time"]).as_py()) for source in use_case.sources)
    end = from_micros(newest + 1)
    # Every label that history knows: nothing is masked yet, so `now` lies beyond the last label.
    rows = training_set.build_rows(use_case, log, window=None, now=end + timedelta(microseconds=use_case.maturity))
    times = rows["event_time"].cast(pa.int64()).to_numpy()
    return History(rows, times, log.data_version(), end, log)


def first_champion(use_case: UseCase, history: History, *, out: str) -> Turn:
    """Train and judge the champion that every policy starts from."""
    first = use_case.training.first
    assert first is not None
    now = use_case.training.live or first.end
    turn = run_round(
        use_case,
        _training_rows(use_case, history, (first,), now=now, cursor=None, mode="from_scratch"),
        champion=None,
        mode="from_scratch",
        trigger=None,
        now=now,
        out=out,
        reason="the first champion",
    )
    if turn.report.verdict.word != "promote":
        reasons = "; ".join(turn.report.verdict.reasons)
        raise EvermodelError(f"{use_case.name}: the first champion doesn't pass its gate: {reasons}")
    return turn


def _training_rows(
    use_case: UseCase,
    history: History,
    windows: Sequence[Window],
    *,
    now: datetime,
    cursor: datetime | None,
    mode: Literal["stateful", "from_scratch"],
) -> training_set.TrainingRows:
    return training_set.training_rows(
        use_case,
        history.log,
        windows=windows,
        now=now,
        champion_cursor=cursor,
        mode=mode,
        seed=use_case.training.seed,
        rows=history.rows,
        data_version=history.data_version,
    )


def _live(use_case: UseCase, history: History, first: Turn, policy: PolicyName, out: str, progress: Progress) -> Life:
    home = storage.join(out, policy)
    storage.delete_tree(home)  # a replay is lived from its beginning: an older one's ledger isn't its memory
    storage.make_folder(home)
    ledger = Ledger(f"sqlite:///{home}/ledger.db")
    start = first.trained.release.created
    promote(
        ledger,
        first.trained.release,
        verdict=first.report.verdict,
        expected=None,
        now=start,
        actor="replay",
        reason="the first champion",
    )
    variant = _with_mode(use_case, "from_scratch" if policy == "from_scratch" else "stateful")
    life = Life(policy, variant, ledger, home, first.challenger, first.reference)
    step = timedelta(microseconds=use_case.monitoring.window_length)
    while start < history.end:
        window = Window(start=start, end=start + step)
        _live_window(life, history, window, progress)
        start = window.end
    return life


def _with_mode(use_case: UseCase, mode: Literal["stateful", "from_scratch"]) -> UseCase:
    return use_case.model_copy(update={"retraining": use_case.retraining.model_copy(update={"mode": mode})})


def _live_window(life: Life, history: History, window: Window, progress: Progress) -> None:
    """Serve the window, look at it when it is over, and act."""
    rows = history.between(window)
    if rows.num_rows == 0:
        return
    release = life.champion.release
    life.served.append((window, score_rows(life.champion, as_served(life.use_case, rows)), release.id))
    now = window.end
    if now >= history.end:
        return  # history is over: nobody would be served by a new champion
    raised = _look(life, now)
    standing = life.ledger.policy_state(life.use_case, now=now, new_rows=_new_rows(life, history, now))
    due = schedule_alert(life.use_case, standing, now=now)
    if due is not None and life.ledger.record_alert(due, now=now):
        raised.append(due)
    life.alerts.extend(raised)
    if life.policy == "static":
        return
    alerts = life.ledger.alerts(life.use_case.name, champion=standing.champion)
    decision = decide(life.use_case, alerts, standing, now=now)
    life.ledger.record_decision(decision)
    if decision.action == "retrain":
        _retrain(life, history, decision, now, progress)


def _look(life: Life, now: datetime) -> list[Alert]:
    """Monitor the newest window, and once more each older one whose labels have all come since the last look."""
    maturity = timedelta(microseconds=life.use_case.maturity)
    found: list[Alert] = []
    for window, served, release in life.served:
        newest = window.end == now
        ripened = life.looked is not None and life.looked < window.end + maturity <= now and maturity > timedelta(0)
        if not (newest or ripened) or release != life.champion.release.id:
            continue  # an older champion's window says nothing about this one
        visible = mask_unmatured(life.use_case, served, now=now)
        report = monitor(life.use_case, visible, life.reference, window=window, now=now, champion=release)
        life.ledger.record_window(report, now=now)
        for alert in report.alerts:
            if (newest or alert.kind == "performance") and life.ledger.record_alert(alert, now=now):
                found.append(alert)
    life.looked = now
    return found


def _new_rows(life: Life, history: History, now: datetime) -> int:
    low = micros(life.champion.release.cursor)
    return int(
        np.searchsorted(history.times, micros(now) - life.use_case.maturity, side="right")
        - np.searchsorted(history.times, low)
    )


def _retrain(life: Life, history: History, decision: Decision, now: datetime, progress: Progress) -> None:
    champion, key = life.champion, decision.retrain_key
    life.ledger.claim_lease(key, owner="replay", now=now, seconds=1)
    if not life.ledger.start_run(key, use_case=life.use_case.name, decision_id=decision.id, owner="replay", now=now):
        return  # one run a key, in a replay too
    rows = _training_rows(
        life.use_case, history, decision.windows, now=now, cursor=champion.release.cursor, mode=decision.mode
    )
    turn = run_round(
        life.use_case,
        rows,
        champion=champion,
        mode=decision.mode,
        trigger=decision.trigger,
        now=now,
        out=storage.join(life.out, "turns", key),
        reason=decision.reason,
    )
    verdict = turn.report.verdict
    if verdict.word == "promote":
        promote(
            life.ledger,
            turn.trained.release,
            verdict=verdict,
            expected=champion.release.id,
            now=now,
            actor="replay",
            reason=decision.reason,
        )
        life.champion, life.reference = turn.challenger, turn.reference
    state = RUN_STATES[verdict.word]
    life.ledger.finish_run(key, state=state, result={"release": turn.trained.release.id}, now=now)
    life.rows_trained += turn.trained.rows_trained
    life.seconds += turn.trained.seconds
    life.retrains.append(_retrain_story(decision, turn, champion.release))
    progress(f"{life.policy} {now:%Y-%m-%d} {decision.diagnosis}: {verdict.word} ({turn.trained.seconds:.1f} s)")


# what is told ---------------------------------------------------------------------------------------------------------


def _span(window: Window) -> dict[str, str]:
    return {"start": _iso(window.start), "end": _iso(window.end)}


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S") + (f".{time.microsecond:06d}" if time.microsecond else "") + "Z"


def _retrain_story(decision: Decision, turn: Turn, parent: Release) -> dict[str, Any]:
    manifests = turn.trained.manifests
    return {
        "trigger": _span(decision.trigger) if decision.trigger else None,
        "trained_on": [_span(window) for window in manifests[0].windows],
        "parent": parent.id,
        "state": decision.mode,
        "step0_loss": _mean([manifest.step0_loss for manifest in manifests]),
        "parent_loss": _mean([manifest.parent_loss for manifest in manifests]),
        "rows": manifests[0].rows,
        "rehearsal_rows": manifests[0].rehearsal_rows,
        "rehearsal_window": _span(manifests[0].rehearsal_window) if manifests[0].rehearsal_window else None,
        "gate_window": _span(manifests[0].gate_window) if manifests[0].gate_window else None,
        "rows_trained": turn.trained.rows_trained,
        "seconds": turn.trained.seconds,
        "release": turn.trained.release.id,
        "at": _iso(decision.at),
        "verdict": turn.report.verdict.word,
        "reasons": list(turn.report.verdict.reasons),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _story(life: Life, history: History) -> dict[str, Any]:
    windows = [_window_story(life, history, *served) for served in life.served]
    judged = [(window["metric"], window["rows"]) for window in windows if window["metric"] is not None]
    rows = sum(count for _, count in judged)
    total = sum(value * count for value, count in judged) / rows if rows else None
    return {
        "policy": life.policy,
        "windows": windows,
        "alerts": [_alert_story(alert) for alert in life.alerts],
        "retrains": life.retrains,
        "totals": {
            "metric": total,
            "retrains": len(life.retrains),
            "rows_trained": life.rows_trained,
            "seconds_trained": life.seconds,
        },
    }


def _window_story(life: Life, history: History, window: Window, served: pa.Table, release: str) -> dict[str, Any]:
    """Its metric with all the labels that history came to know; None where some are still missing at its end."""
    known = _labels_end(life.use_case, history)
    matured = window.start + timedelta(microseconds=life.use_case.maturity) <= known
    value = metric_of(life.use_case, mask_unmatured(life.use_case, served, now=known)) if matured else None
    return {**_span(window), "rows": served.num_rows, "metric": value, "champion": release}


def _labels_end(use_case: UseCase, history: History) -> datetime:
    """Until when the history's labels go. One that is a column stands beside its row, so it had come when that was
    written down, even after the last event; a natural label is an event, and is known no later than the last one."""
    waited = all(label.kind == "column" for label in use_case.labels)
    return history.end + timedelta(microseconds=use_case.maturity) if waited else history.end


def _alert_story(alert: Alert) -> dict[str, Any]:
    return {
        **_span(alert.window),
        "kind": alert.kind,
        "diagnosis": alert.diagnosis,
        "champion": alert.champion,
        "evidence": alert.evidence,
    }
