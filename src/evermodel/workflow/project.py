"""A project directory: the places of each use case, and its ledger.

The steps of the workflow ask a project for what they work on. `backtest.project` has another implementation, which answers
from a history in memory, so that both run the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from evermodel import bundle, storage
from evermodel import use_case as use_cases
from evermodel.data.events import EventLog
from evermodel.errors import InputError, nearest
from evermodel.features import training_set as training_sets
from evermodel.features.training_set import TrainingRows
from evermodel.ledger import Ledger
from evermodel.profile import Profile, load_profile
from evermodel.records import Plan, Release, TrainingSet, Window
from evermodel.run_folder import RunFolder
from evermodel.use_case import UseCase


@dataclass(frozen=True)
class ServedWindow:
    """The rows that were answered in a window, with the labels known at a time, and the releases that answered them."""

    rows: pa.Table
    releases: frozenset[str]


@dataclass(frozen=True)
class Project:
    """A project directory: its profile, and the places of each use case."""

    profile: Profile

    @classmethod
    def open(cls, start: Path | None = None) -> Project:
        return cls(load_profile(start))

    def find(self, reference: str) -> tuple[str, UseCase]:
        """The URI and the content of a use case, by name (`fraud`), path or URI."""
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

    def ledger(self) -> Ledger:
        return Ledger(self.profile.ledger_url)

    def log(self, case: UseCase) -> EventLog:
        return EventLog(self.profile.place(case.name, "events"), case.sources)

    def data_version(self, case: UseCase) -> str:
        return self.log(case).data_version()

    # the files of a run ----------------------------------------------------------------------------------------------

    def runs_folder(self, use_case: str) -> str:
        """The folder of all training runs of a use case."""
        return self.profile.place(use_case, "runs")

    def run_folder(self, plan: Plan) -> RunFolder:
        return RunFolder(storage.join(self.runs_folder(plan.use_case), plan.key))

    def save_training_set(self, case: UseCase, plan: Plan, rows: TrainingRows) -> TrainingSet:
        return training_sets.save(case, rows, self.run_folder(plan).rows)

    def load_training_set(self, saved: TrainingSet) -> TrainingRows:
        return training_sets.load(saved)

    def open_release(self, release: Release) -> bundle.OpenRelease:
        return bundle.open_release(release)

    @property
    def writes_pages(self) -> bool:
        """Whether a run leaves pages for people beside its results."""
        return True

    # rows ------------------------------------------------------------------------------------------------------------

    def training_rows(self, case: UseCase, plan: Plan) -> TrainingRows:
        """The matured rows of the plan's windows, split into train, rehearsal and gate rows."""
        return training_sets.training_rows(
            case,
            self.log(case),
            windows=plan.windows,
            now=plan.now,
            champion_cursor=plan.champion.cursor if plan.champion else None,
            mode=plan.mode,
            seed=case.training.seed,
        )

    def count_rows(self, case: UseCase, window: Window) -> int:
        """How many rows of the prediction source lie in a window."""
        return int(self.log(case).read(case.predict.source, window=window, columns=["ingest_seq"]).num_rows)

    def served_window(self, case: UseCase, window: Window, *, now: datetime) -> ServedWindow:
        """What the request log holds of a window, joined with the labels known at `now`."""
        from evermodel.monitoring.cohorts import served_rows
        from evermodel.serving.request_log import RequestLog

        answers = RequestLog(self.profile.place(case.name, "requests")).read(window)
        releases = answers["release"].to_pylist() if "release" in answers.column_names else []
        rows = served_rows(case, answers, self.log(case), now=now)
        return ServedWindow(rows, frozenset(release for release in releases if release))

    def offline_rows(self, case: UseCase, window: Window, *, now: datetime) -> pa.Table | None:
        """A window's rows with features recomputed by the offline path; None if they can't differ from the served rows."""
        return training_sets.build_rows(case, self.log(case), window=window, now=now, labelled=False)

    @contextmanager
    def recording(self, plan: Plan, where: str, *, now: datetime) -> Iterator[None]:
        """Record a step's failure in the ledger with its cause, and end the run: an orchestrator doesn't keep the cause."""
        try:
            yield
        except Exception as error:
            ledger = self.ledger()
            ledger.record_error(plan.use_case, where, f"{type(error).__name__}: {error}", now=now)
            ledger.finish_run(plan.key, state="failed", result={"where": where, "error": str(error)}, now=now)
            raise
