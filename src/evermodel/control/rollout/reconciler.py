"""Brings serving after the ledger: its champions into the RayService's `user_config`, watched until they are live.

A promotion row is the commit; this is a projection of it, done again until both say the same. A release that serving
doesn't take (an error, or not live on all replicas in time) is taken back: the last good one is named again, the error
is in the ledger, and it isn't tried again until somebody asks or another champion comes. Whatever is down (API server,
ledger, serving, storage) ends a round and not the thread. The registry's aliases follow in a thread of their own, so
that a registry that hangs holds up nobody.

Replicas. `/readyz` is answered by one model replica of several, which says which one and how many there are; it is asked
over new connections until each has answered. Serve's own status isn't enough: a replica that couldn't load a release
goes on with the one before, and is healthy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any

from evermodel import storage
from evermodel.control.rollout.rayservice import Found, RayService
from evermodel.control.rollout.transitions import (
    CaseNotes,
    Observation,
    RolloutState,
    Target,
    Transition,
    is_complete,
    observe,
    releases,
    step,
    with_releases,
)
from evermodel.control.service import Service
from evermodel.errors import ConflictError
from evermodel.records import Promotion

LOOK_SECONDS = 2.0
DEADLINE = 120.0
ALIAS_SECONDS = 60.0
CONFLICTS = 5  # in one round
ASKS = 40  # of one round, for all replicas to be among those that answer
log = logging.getLogger(__name__)


class Reconciler:
    """The loop. `serving` asks one replica, whichever answers, for its status."""

    def __init__(
        self,
        service: Service,
        rayservice: RayService,
        serving: Callable[[], Mapping[str, Any]],
        *,
        seconds: float = LOOK_SECONDS,
        deadline: float = DEADLINE,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service, self._rayservice, self._serving = service, rayservice, serving
        self._seconds, self._deadline, self._ticks = seconds, deadline, ticks
        self._standing: dict[str, Promotion] = {}
        self._notes = RolloutState()
        self._waited: dict[str, tuple[Target, float]] = {}
        self._answered_at: float | None = None
        self._again: set[str] = set()  # of whom a person asked for another try
        self._unsaid: list[tuple[str, str]] = []
        self._said = ""
        self._end = Event()
        self._threads = [
            Thread(target=self._run, args=(self.look, seconds), name="projector", daemon=True),
            Thread(target=self._run, args=(self.alias, ALIAS_SECONDS), name="aliases", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends after the round that goes on; call it from another thread."""
        self._end.set()
        self._threads[0].join(timeout=10)

    def again(self, name: str) -> None:
        """Try the champion that failed once more, in the next round."""
        self._again.add(name)

    # what is told of it ----------------------------------------------------------------------------------------------

    def lag(self) -> dict[str, float]:
        """Seconds since each champion came, of those that aren't live; 0 of those that are."""
        now = self._service.clock()
        return {
            name: 0.0 if self._is_live(name, row) else max((now - row.at).total_seconds(), 0.0)
            for name, row in tuple(self._standing.items())
        }

    def failed(self) -> dict[str, int]:
        """1 for each use case whose champion serving didn't take."""
        cases = self._notes.use_cases
        found = {name: cases.get(name, CaseNotes()).failed for name in self._standing}
        return {
            name: int(failed is not None and failed.release == self._standing[name].release.id)
            for name, failed in found.items()
        }

    def _is_live(self, name: str, row: Promotion) -> bool:
        notes = self._notes.use_cases.get(name, CaseNotes())
        return notes.rolling is None and notes.good is not None and notes.good.release == row.release.id

    # one round -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Bring the config one step nearer to the ledger. Raises what is down; the next round does it all again."""
        self._record()
        for _ in range(CONFLICTS):
            try:
                self._round()
                return
            except ConflictError as error:
                log.info("%s; once more", error)

    def _round(self) -> None:
        names = tuple(self._service.places())
        history = {name: self._service.ledger.promotions(name) for name in names}
        self._standing = {name: rows[-1] for name, rows in history.items() if rows}
        found = self._rayservice.read()
        self._notes = found.notes
        configured = releases(found.config)
        steps = self._steps(found, configured)
        wanted = {name: one.uri for name, one in steps.items() if one.uri is not None}
        notes = RolloutState(use_cases={**found.notes.use_cases, **{name: one.notes for name, one in steps.items()}})
        config = with_releases(found.config, wanted)
        if config == found.config and notes == found.notes:
            self._again.difference_update(steps)
            return
        self._rayservice.write(found, config=config, notes=notes)
        self._notes = notes
        self._again.difference_update(steps)
        for name, one in steps.items():
            self._say(name, one)
        self._record()

    def _steps(self, found: Found, configured: Mapping[str, str | None]) -> dict[str, Transition]:
        answers: list[Mapping[str, Any]] | None = None
        steps = {}
        for name in configured:
            row = self._standing.get(name)
            if row is None:
                continue
            target = Target(release=row.release.id, uri=storage.join(row.release.home, "release.json"))
            notes = found.notes.use_cases.get(name, CaseNotes())
            if name in self._again:
                notes = notes.model_copy(update={"failed": None})
            seen = Observation("silent")
            if notes.rolling == target and configured[name] == target.uri:
                answers = self._answers() if answers is None else answers
                seen = observe(answers, name, target.release)
            now = self._service.clock()
            waited = self._wait(name, target, seen)
            one = step(notes, target, configured[name], seen, waited=waited, deadline=self._deadline, now=now)
            if one.event == "rolling":
                self._waited.pop(name, None)
                if not self._leave(row, target):
                    continue
            steps[name] = one
        self._answered_at = self._ticks() if answers else None
        return steps

    def _wait(self, name: str, target: Target, seen: Observation) -> float:
        """Seconds for which serving has answered since this release was named: an outage isn't a release's fault."""
        known, waited = self._waited.get(name, (target, 0.0))
        if known != target:
            waited = 0.0
        if seen.word != "silent" and self._answered_at is not None:
            waited += self._ticks() - self._answered_at
        self._waited[name] = (target, waited)
        return waited

    def _answers(self) -> list[Mapping[str, Any]]:
        """Statuses of this moment, of all replicas where that can be had. The first that can't be had ends it."""
        answers: list[Mapping[str, Any]] = []
        for _ in range(ASKS):
            try:
                answers.append(self._serving())
            except Exception as error:
                log.info("serving doesn't answer: %s", type(error).__name__)
                return []
            if is_complete(answers):
                break
        return answers

    @staticmethod
    def _leave(row: Promotion, target: Target) -> bool:
        """What the config points at must be there before it does; False where storage doesn't take it now."""
        try:
            if not storage.exists(target.uri):
                storage.write_text(target.uri, row.release.to_json())
        except OSError as error:
            log.warning("%s: %s", target.uri, error)
            return False
        return True

    def _say(self, name: str, one: Transition) -> None:
        log.info("%s: %s", name, one.event or "noted")
        if one.event == "failed" and one.notes.failed is not None:
            back = f"; {one.notes.good.uri} is put back" if one.notes.good else ""
            self._unsaid.append((name, f"release {one.notes.failed.release}: {one.notes.failed.reason}{back}"))

    def _record(self) -> None:
        """Errors into the ledger, once it takes them."""
        while self._unsaid:
            name, text = self._unsaid[0]
            self._service.ledger.record_error(name, "projector", text, now=self._service.clock())
            self._unsaid.pop(0)

    def alias(self) -> None:
        """Re-apply the registry's aliases of every use case that has a champion."""
        for name in tuple(self._standing):
            try:
                self._service.aliases(self._service.project, name)
            except Exception as error:
                log.warning("aliases of %s: %s", name, error)

    def _run(self, turn: Callable[[], None], seconds: float) -> None:
        while not self._end.wait(seconds):
            try:
                turn()
            except Exception as error:  # whatever is down comes back; said once until it is something else
                text = f"{type(error).__name__}: {error}"
                if text != self._said:
                    log.warning("projector: %s", text)
                self._said = text
