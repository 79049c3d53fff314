"""Makes serving follow the ledger: writes each champion into the RayService's `user_config` and waits until it is live.

A promotion row is the commit; the reconciler repeats its rounds until serving says the same. A release that fails (an
error, or not live on all replicas within the deadline) is taken back: the config names the last good release again, the
ledger records the error, and the release is tried again only on request or after another promotion. Anything that is
down (API server, ledger, serving, storage) ends a round, not the thread. The registry's aliases have a thread of their
own, so that a hanging registry delays nothing else.

Each answer of `/readyz` comes from one model replica, which gives its name and the number of replicas. The reconciler
asks over new connections until every replica has answered. Serve's own status is not enough: a replica that failed to
load a release keeps the one before, and counts as healthy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread

from evermodel import storage
from evermodel.control.rollout.rayservice import RayService, RayServiceSnapshot
from evermodel.control.rollout.serve_config import configured_releases, with_releases
from evermodel.control.rollout.transitions import (
    Observation,
    RolloutState,
    Target,
    Transition,
    UseCaseRollout,
    is_complete,
    next_transition,
    observe,
)
from evermodel.control.service import Service, Status
from evermodel.errors import ConflictError
from evermodel.records import Promotion
from evermodel.run_folder import RunFolder

INTERVAL_SECONDS = 2.0
ALIAS_INTERVAL_SECONDS = 60.0
DEADLINE_SECONDS = 120.0
MAX_CONFLICTS = 5  # in one round
MAX_STATUS_READS = 40  # in one round, until every replica has answered
log = logging.getLogger(__name__)


class Reconciler:
    """The loop in its threads. `serving` reads the status of one replica, whichever answers."""

    def __init__(
        self,
        service: Service,
        rayservice: RayService,
        serving: Callable[[], Status],
        *,
        interval: float = INTERVAL_SECONDS,
        alias_interval: float = ALIAS_INTERVAL_SECONDS,
        deadline: float = DEADLINE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service, self._rayservice, self._serving = service, rayservice, serving
        self._deadline, self._monotonic = deadline, monotonic
        self._champions: dict[str, Promotion] = {}
        self._state = RolloutState()
        self._waited: dict[str, tuple[Target, float]] = {}
        self._answered_at: float | None = None
        self._retries: set[str] = set()
        self._unrecorded: list[tuple[str, str]] = []  # errors that the ledger does not have yet
        self._last_warning = ""
        self._stopped = Event()
        self._threads = [
            Thread(target=self._repeat, args=(self.reconcile, interval), name="reconciler", daemon=True),
            Thread(target=self._repeat, args=(self.sync_aliases, alias_interval), name="aliases", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops after the present round. Call it from another thread."""
        self._stopped.set()
        self._threads[0].join(timeout=10)

    def retry(self, name: str) -> None:
        """Tries the champion that failed once more, in the next round."""
        self._retries.add(name)

    # the rollout's state, for metrics ---------------------------------------------------------------------------------

    def lag(self) -> dict[str, float]:
        """Seconds since the promotion of each champion that is not live yet; 0 for those that are."""
        now = self._service.clock()
        return {
            name: 0.0 if self._is_live(name, row) else max((now - row.at).total_seconds(), 0.0)
            for name, row in tuple(self._champions.items())
        }

    def failed(self) -> dict[str, int]:
        """1 for each use case whose champion failed to go live, else 0."""
        failures = {name: self._rollout(name).failed for name in self._champions}
        return {
            name: int(failure is not None and failure.release == self._champions[name].release.id)
            for name, failure in failures.items()
        }

    def _is_live(self, name: str, row: Promotion) -> bool:
        rollout = self._rollout(name)
        return rollout.rolling is None and rollout.good is not None and rollout.good.release == row.release.id

    def _rollout(self, name: str) -> UseCaseRollout:
        return self._state.use_cases.get(name, UseCaseRollout())

    # one round -------------------------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Brings the config one step nearer to the ledger. Raises if anything is down; the next round starts over."""
        self._record_errors()
        for _ in range(MAX_CONFLICTS):
            try:
                self._reconcile_once()
                return
            except ConflictError as error:
                log.info("%s; trying again", error)

    def _reconcile_once(self) -> None:
        history = {name: self._service.ledger.promotions(name) for name in self._service.use_case_files()}
        self._champions = {name: rows[-1] for name, rows in history.items() if rows}
        snapshot = self._rayservice.read()
        self._state = snapshot.state
        transitions = self._transitions(snapshot)
        wanted = {name: transition.uri for name, transition in transitions.items() if transition.uri is not None}
        changed = {name: transition.state for name, transition in transitions.items()}
        state = RolloutState(use_cases={**snapshot.state.use_cases, **changed})
        config = with_releases(snapshot.config, wanted)
        if config == snapshot.config and state == snapshot.state:
            self._retries.difference_update(transitions)
            return
        self._rayservice.write(snapshot, config=config, state=state)
        self._state = state
        self._retries.difference_update(transitions)
        for name, transition in transitions.items():
            self._log(name, transition)
        self._record_errors()

    def _transitions(self, snapshot: RayServiceSnapshot) -> dict[str, Transition]:
        """The next transition of each configured use case that has a champion."""
        answers: list[Status] | None = None
        transitions = {}
        for name, configured in configured_releases(snapshot.config).items():
            row = self._champions.get(name)
            if row is None:
                continue
            target = Target(release=row.release.id, uri=RunFolder(row.release.home).release)
            rollout = self._rollout(name)
            if name in self._retries:
                rollout = rollout.model_copy(update={"failed": None})
            observation = Observation("silent")
            if rollout.rolling == target and configured == target.uri:
                answers = self._read_statuses() if answers is None else answers
                observation = observe(answers, name, target.release)
            transition = next_transition(
                rollout,
                target,
                configured,
                observation,
                waited=self._add_wait(name, target, observation),
                deadline=self._deadline,
                now=self._service.clock(),
            )
            if transition.event == "rolling":
                self._waited.pop(name, None)
                if not self._ensure_release_file(row, target):
                    continue
            transitions[name] = transition
        self._answered_at = self._monotonic() if answers else None
        return transitions

    def _add_wait(self, name: str, target: Target, observation: Observation) -> float:
        """Seconds for which serving has answered since the config names this release: an outage does not count."""
        known, waited = self._waited.get(name, (target, 0.0))
        if known != target:
            waited = 0.0
        if observation.word != "silent" and self._answered_at is not None:
            waited += self._monotonic() - self._answered_at
        self._waited[name] = (target, waited)
        return waited

    def _read_statuses(self) -> list[Status]:
        """The present status of every replica, or of as many as answer; empty if one request fails."""
        answers: list[Mapping[str, object]] = []
        for _ in range(MAX_STATUS_READS):
            try:
                answers.append(self._serving())
            except Exception as error:
                log.info("serving does not answer: %s", type(error).__name__)
                return []
            if is_complete(answers):
                break
        return answers

    @staticmethod
    def _ensure_release_file(row: Promotion, target: Target) -> bool:
        """Writes `release.json` if it is missing, before the config names it. False if storage refuses it now."""
        try:
            if not storage.exists(target.uri):
                storage.write_text(target.uri, row.release.to_json())
        except OSError as error:
            log.warning("%s: %s", target.uri, error)
            return False
        return True

    def _log(self, name: str, transition: Transition) -> None:
        log.info("%s: %s", name, transition.event or "state updated")
        failure, good = transition.state.failed, transition.state.good
        if transition.event == "failed" and failure is not None:
            put_back = f"; {good.uri} is put back" if good else ""
            self._unrecorded.append((name, f"release {failure.release}: {failure.reason}{put_back}"))

    def _record_errors(self) -> None:
        """Records pending errors in the ledger. Raises if the ledger is down; they stay pending."""
        while self._unrecorded:
            name, text = self._unrecorded[0]
            self._service.ledger.record_error(name, "reconciler", text, now=self._service.clock())
            self._unrecorded.pop(0)

    def sync_aliases(self) -> None:
        """Sets the registry's aliases of every use case that has a champion."""
        for name in tuple(self._champions):
            try:
                self._service.sync_aliases(self._service.project, name)
            except Exception as error:
                log.warning("aliases of %s: %s", name, error)

    def _repeat(self, task: Callable[[], None], interval: float) -> None:
        while not self._stopped.wait(interval):
            try:
                task()
            except Exception as error:  # whatever is down comes back; the same warning is logged once
                text = f"{type(error).__name__}: {error}"
                if text != self._last_warning:
                    log.warning("reconciler: %s", text)
                self._last_warning = text
