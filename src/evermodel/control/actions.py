"""What a person or an alert may set going: each is a row of the ledger first, with who and why, and work second."""

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
from evermodel.retraining.policy import cut

log = logging.getLogger(__name__)
Launch = Callable[[Service, Decision], None]


class Runs:
    """Starts decided runs in threads of this process, one a use case at a time. The ledger's lease makes it one a key
    wherever else it is asked for: a second pipeline of a key isn't granted it, and does nothing."""

    def __init__(self, service: Service, *, launch: Launch | None = None) -> None:
        self._service, self._launch = service, launch or launch_training
        self._busy: dict[str, Thread] = {}
        self._lock = Lock()

    def start(self, decision: Decision) -> bool:
        """Set a decision's run going; False where this process runs one of the use case already."""
        with self._lock:
            running = self._busy.get(decision.use_case)
            if running is not None and running.is_alive():
                return False
            name = f"run-{decision.retrain_key}"
            thread = Thread(target=self._run, args=(decision,), name=name, daemon=True)
            self._busy[decision.use_case] = thread
            thread.start()
            return True

    def is_busy(self, use_case: str) -> bool:
        with self._lock:
            thread = self._busy.get(use_case)
        return thread is not None and thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Until what was started has ended, or so long."""
        for thread in tuple(self._busy.values()):
            thread.join(seconds)

    def resume(self) -> list[str]:
        """Start again what was decided and never run, because this process ended in between; the keys."""
        started = []
        for name in self._service.cases():
            decision = pending(self._service, name)
            if decision is not None and self.start(decision):
                started.append(decision.retrain_key)
        return started

    def _run(self, decision: Decision) -> None:
        try:
            self._launch(self._service, decision)
        except Exception as error:  # a thread's end is seen by nobody: the ledger keeps what it died of
            log.warning("run %s of %s: %s", decision.retrain_key, decision.use_case, error)
            note(self._service, decision.use_case, f"run {decision.retrain_key}", error)


def launch_training(service: Service, decision: Decision) -> None:
    """Run the training pipeline of a decision to its end, by the profile's launcher."""
    uri, _ = service.project.find(decision.use_case)
    parameters = training_parameters(
        use_case=uri,
        windows=canonical_json([window.model_dump(mode="json") for window in decision.windows]),
        mode=decision.mode,
        reason=decision.reason,
        now=service.clock(),
        key=decision.retrain_key,
    )
    if decision.alerts and decision.trigger is not None:  # a person's word has no window of its own to prove
        parameters["trigger"] = decision.trigger.to_json()
    launch(service.project.profile, "training", parameters, log_name=f"training-{decision.retrain_key}")


def pending(service: Service, name: str) -> Decision | None:
    """The newest decision to retrain, where its champion is the champion still and its run was never started."""
    retrains = [one for one in service.ledger.decisions(name) if one.action == "retrain"]
    champion = service.ledger.champion(name)
    if not retrains or retrains[-1].champion != (champion.id if champion else None):
        return None
    started = {run.key for run in service.ledger.runs(name)}
    return None if retrains[-1].retrain_key in started else retrains[-1]


def retrain(
    service: Service, runs: Runs, name: str, *, actor: str, reason: str, windows: Sequence[Window] = (), mode: str = ""
) -> Decision:
    """A person's decision to retrain, recorded and started: on `windows`, or on all that is new to the champion.

    ConflictError where a run is going on, or there is nothing to train on.
    """
    case, now = service.case(name), service.clock()
    standing = service.ledger.policy_state(case, now=now, new_rows=0)
    if standing.running or runs.is_busy(name):
        raise ConflictError(f"{name}: a retrain is running; one at a time")
    chosen: Mode = workflow.mode_of(mode) or ("stateful" if standing.champion else "from_scratch")
    spans = tuple(windows)
    if not spans and standing.champion_cursor is not None:
        spans = cut(standing.champion_cursor, now, standing.quarantined)
    elif not spans and case.training.first is not None:
        spans = (case.training.first,)
    if not spans:
        raise ConflictError(f"{name}: there is nothing to train on; name the windows, or `training.first`")
    start = min(window.start for window in spans)
    if start >= now:
        raise ConflictError(f"{name}: the windows start at {start.isoformat()}, which hasn't come yet")
    decision = Decision(
        use_case=name,
        at=now,
        action="retrain",
        reason=f"asked for by {actor}: {reason}",
        champion=standing.champion,
        windows=spans,
        trigger=Window(start=start, end=now),
        mode=chosen,
    )
    recorded = service.ledger.record_decision(decision)
    if not runs.start(recorded):
        raise ConflictError(f"{name}: a retrain is running; one at a time")
    return recorded


def rollback(service: Service, name: str, *, actor: str, reason: str, leave: str | None = None) -> Promotion:
    """Put the previous champion back. `leave`: the champion that the person saw; ConflictError where it isn't any more."""
    service.case(name)
    champion = service.ledger.champion(name)
    if champion is None:
        raise ConflictError(f"{name}: there is no champion to roll back from")
    row = promotion.rollback(
        service.ledger, name, now=service.clock(), actor=actor, reason=reason, leave=leave or champion.id
    )
    follow(service, name)
    return row


def promote(
    service: Service, name: str, key: str, *, actor: str, reason: str, override: bool = False
) -> tuple[Release, EvaluationReport]:
    """Make the judged release of run `key` the champion; GateError where the gate says otherwise and isn't overridden."""
    service.case(name)
    plan, _, release = workflow.read_run(service.project, name, key)
    report = workflow.read_report(release)
    said = report.verdict
    if said.word != "promote" and not override:
        raise GateError(f"the gate says {said.word}: {'; '.join(said.reasons)}")
    asked = plan.model_copy(update={"now": service.clock(), "reason": reason})
    against = override and said.word != "promote"
    workflow.promote(service.project, asked, release, report, actor=actor, override=reason if against else None)
    follow(service, name)
    return release, report


def follow(service: Service, name: str) -> None:
    """Bring the registry's aliases after the ledger, beside the request: a registry that is down holds nobody up."""

    def apply() -> None:
        try:
            service.aliases(service.project, name)
        except Exception as error:  # the projector does it again
            log.warning("aliases of %s: %s", name, error)

    Thread(target=apply, name=f"aliases-{name}", daemon=True).start()


def note(service: Service, name: str, where: str, error: BaseException | str) -> None:
    """Leave an error in the ledger; where that is down too, the log has it."""
    try:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        service.ledger.record_error(name, where, text[:2000], now=service.clock())
    except Exception as second:
        log.warning("the ledger can't take an error of %s (%s): %s", name, where, second)
