"""A project directory: where each use case keeps what, and its ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from evermodel import storage
from evermodel import use_case as use_cases
from evermodel.data.events import EventLog
from evermodel.errors import InputError, nearest
from evermodel.ledger import Ledger
from evermodel.profile import Profile, load_profile
from evermodel.records import Plan
from evermodel.use_case import UseCase


@dataclass(frozen=True)
class Project:
    """A project directory: its profile, and where each use case keeps what."""

    profile: Profile

    @classmethod
    def open(cls, start: Path | None = None) -> Project:
        return cls(load_profile(start))

    def find(self, reference: str) -> tuple[str, UseCase]:
        """A use case by name (`fraud`), path or URI: where it lies, and what it says."""
        if "/" in reference or reference.endswith((".yaml", ".yml")):
            uri = reference
        else:
            uri = str(self.profile.root / "use_cases" / f"{reference}.yaml")
            if not storage.exists(uri):
                names = [
                    Path(path).stem for path in storage.list_files(self.profile.root / "use_cases", suffix=".yaml")
                ]
                raise InputError(f"no use case {reference!r} here; {nearest(reference, names)}")
        return uri, use_cases.load(uri)

    def log(self, case: UseCase) -> EventLog:
        return EventLog(self.profile.place(case.name, "events"), case.sources)

    def ledger(self) -> Ledger:
        return Ledger(self.profile.ledger_url)

    def turn(self, plan: Plan, *parts: str) -> str:
        """The folder of one run: its training set, its bundles, its report."""
        return self.profile.place(plan.use_case, "turns", plan.key, *parts)

    @contextmanager
    def recording(self, plan: Plan, where: str, *, now: datetime) -> Iterator[None]:
        """A step's failure goes into the ledger with its cause, and ends the run: an orchestrator doesn't carry it."""
        try:
            yield
        except Exception as error:
            ledger = self.ledger()
            ledger.record_error(plan.use_case, where, f"{type(error).__name__}: {error}", now=now)
            ledger.finish_run(plan.key, state="failed", result={"where": where, "error": str(error)}, now=now)
            raise
