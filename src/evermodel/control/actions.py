"""What a person or an alert can start: retrain, promote, rollback. The ledger's row comes first, the work after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Lock, Thread

from evermodel import workflow
from evermodel.control.service import Service
from evermodel.errors import ConflictError, GateError
from evermodel.execution.launch import launch, training_parameters
from evermodel.records import Decision, EvaluationReport, Mode, Promotion, Release, Window, canonical_json
from evermodel.registry import promotion
from evermodel.retraining.policy import cut_windows

log = logging.getLogger(__name__)
RunTraining = Callable[[Service, Decision], None]
MAX_ERROR_LENGTH = 2000


class RunLauncher:
    """Starts decided runs in threads of this process, one at a time for each use case.

    The ledger's lease allows one run for each key across all processes: a second pipeline for a key does nothing.
    """

    def __init__(self, service: Service, *, run: RunTraining | None = None) -> None:
        self._service, self._run_training = service, run or run_training
        self._threads: dict[str, Thread] = {}
        self._lock = Lock()

    def start(self, decision: Decision) -> bool:
        """Starts the run of a decision. False if this process already runs one for the use case."""
        with self._lock:
            running = self._threads.get(decision.use_case)
            if running is not None and running.is_alive():
                return False
            name = f"run-{decision.retrain_key}"
            thread = Thread(target=self._run, args=(decision,), name=name, daemon=True)
            self._threads[decision.use_case] = thread
            thread.start()
            return True

    def is_busy(self, use_case: str) -> bool:
        with self._lock:
            thread = self._threads.get(use_case)
        return thread is not None and thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Waits for each started run to end, at most `seconds` each."""
        for thread in tuple(self._threads.values()):
            thread.join(seconds)

    def resume(self) -> list[str]:
        """Starts the runs that were decided but not started because the process ended; their keys."""
        started = []
        for name in self._service.use_cases():
            decision = find_pending_decision(self._service, name)
            if decision is not None and self.start(decision):
                started.append(decision.retrain_key)
        return started

    def _run(self, decision: Decision) -> None:
        try:
            self._run_training(self._service, decision)
        except Exception as error:  # nobody waits for this thread, so the ledger records the cause
            log.warning("run %s of %s: %s", decision.retrain_key, decision.use_case, error)
            record_error(self._service, decision.use_case, f"run {decision.retrain_key}", error)


def run_training(service: Service, decision: Decision) -> None:
    """Runs the training pipeline of a decision to its end, by the profile's launcher."""
    uri, _ = service.project.find(decision.use_case)
    parameters = training_parameters(
        use_case=uri,
        windows=canonical_json([window.model_dump(mode="json") for window in decision.windows]),
        mode=decision.mode,
        reason=decision.reason,
        now=service.clock(),
        key=decision.retrain_key,
    )
    if decision.alerts and decision.trigger is not None:  # a person's decision has no alerted window to cover
        parameters["trigger"] = decision.trigger.to_json()
    launch(service.project.profile, "training", parameters, log_name=f"training-{decision.retrain_key}")


def find_pending_decision(service: Service, name: str) -> Decision | None:
    """The newest decision to retrain, if its champion is still the champion and its run never started."""
    retrains = [decision for decision in service.ledger.decisions(name) if decision.action == "retrain"]
    champion = service.ledger.champion(name)
    if not retrains or retrains[-1].champion != (champion.id if champion else None):
        return None
    started = {run.key for run in service.ledger.runs(name)}
    return None if retrains[-1].retrain_key in started else retrains[-1]


def retrain(
    service: Service,
    launcher: RunLauncher,
    name: str,
    *,
    actor: str,
    reason: str,
    windows: Sequence[Window] = (),
    mode: str = "",
) -> Decision:
    """Records a person's decision to retrain and starts its run, on `windows` or on all rows new to the champion.

    Raises ConflictError if a run is going on, or if there is nothing to train on.
    """
    case, now = service.use_case(name), service.clock()
    state = service.ledger.policy_state(case, now=now, new_rows=0)
    if state.running or launcher.is_busy(name):
        raise ConflictError(f"{name}: a retrain is running; only one can run at a time")
    chosen_mode: Mode = workflow.parse_mode(mode) or ("stateful" if state.champion else "from_scratch")
    chosen = tuple(windows)
    if not chosen and state.champion_cursor is not None:
        chosen = cut_windows(state.champion_cursor, now, state.quarantined)
    elif not chosen and case.training.first is not None:
        chosen = (case.training.first,)
    if not chosen:
        raise ConflictError(f"{name}: there is nothing to train on; give windows, or set `training.first`")
    start = min(window.start for window in chosen)
    if start >= now:
        raise ConflictError(f"{name}: the windows start at {start.isoformat()}, which is in the future")
    decision = Decision(
        use_case=name,
        at=now,
        action="retrain",
        reason=f"asked for by {actor}: {reason}",
        champion=state.champion,
        windows=chosen,
        trigger=Window(start=start, end=now),
        mode=chosen_mode,
    )
    recorded = service.ledger.record_decision(decision)
    if not launcher.start(recorded):
        raise ConflictError(f"{name}: a retrain is running; only one can run at a time")
    return recorded


def rollback(
    service: Service, name: str, *, actor: str, reason: str, expected_champion: str | None = None
) -> Promotion:
    """Makes the previous champion the champion again.

    `expected_champion`: the release that the person saw; ConflictError if it is no longer the champion.
    """
    service.use_case(name)
    champion = service.ledger.champion(name)
    if champion is None:
        raise ConflictError(f"{name}: there is no champion to roll back from")
    row = promotion.rollback(
        service.ledger, name, now=service.clock(), actor=actor, reason=reason, replaced=expected_champion or champion.id
    )
    sync_aliases_in_background(service, name)
    return row


def promote(
    service: Service, name: str, key: str, *, actor: str, reason: str, override: bool = False
) -> tuple[Release, EvaluationReport]:
    """Makes the judged release of run `key` the champion. Raises GateError if the gate forbids it without override."""
    service.use_case(name)
    plan, _, release = workflow.read_run(service.project, name, key)
    report = workflow.read_report(release)
    verdict = report.verdict
    against_gate = verdict.word != "promote"
    if against_gate and not override:
        raise GateError(f"the gate says {verdict.word}: {'; '.join(verdict.reasons)}")
    plan = plan.model_copy(update={"now": service.clock(), "reason": reason})
    workflow.promote(service.project, plan, release, report, actor=actor, override=reason if against_gate else None)
    sync_aliases_in_background(service, name)
    return release, report


def sync_aliases_in_background(service: Service, name: str) -> None:
    """Sets the registry's aliases in a thread of its own, so that a registry that is down delays no request."""

    def sync() -> None:
        try:
            service.sync_aliases(service.project, name)
        except Exception as error:  # the reconciler repeats it
            log.warning("aliases of %s: %s", name, error)

    Thread(target=sync, name=f"aliases-{name}", daemon=True).start()


def record_error(service: Service, name: str, where: str, error: BaseException | str) -> None:
    """Records an error in the ledger, or in the log if the ledger does not accept it."""
    try:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        service.ledger.record_error(name, where, text[:MAX_ERROR_LENGTH], now=service.clock())
    except Exception as second:
        log.warning("the ledger does not record an error of %s (%s): %s", name, where, second)
