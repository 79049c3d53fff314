"""A project whose rows are a history in memory: the workflow's steps run on it as on a project directory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from evermodel import bundle, storage
from evermodel.backtest.history import History
from evermodel.features import training_set
from evermodel.features.as_served import as_served
from evermodel.features.training_set import TrainingRows
from evermodel.ledger import Ledger
from evermodel.monitoring.cohorts import mask_unmatured
from evermodel.profile import Profile
from evermodel.records import Plan, Ref, Release, TrainingSet, Window
from evermodel.serving.batch import score_rows
from evermodel.use_case import UseCase
from evermodel.workflow.project import Project, ServedWindow


@dataclass(frozen=True)
class BacktestProject(Project):
    """One policy's project: its use case, ledger and runs lie in a folder; rows and served windows are in memory."""

    case: UseCase
    history: History
    _ledger: Ledger
    _served: dict[Window, tuple[pa.Table, str]] = field(default_factory=dict)
    _training_rows: dict[str, TrainingRows] = field(default_factory=dict)
    _opened: dict[str, bundle.OpenRelease] = field(default_factory=dict)

    @classmethod
    def create(cls, case: UseCase, history: History, folder: str) -> BacktestProject:
        """A project in an empty folder: what an earlier backtest left there is deleted."""
        storage.delete_tree(folder)
        storage.make_folder(folder)
        ledger = f"sqlite:///{folder}/ledger.db"
        profile = Profile(
            root=Path(folder), state=".", ledger=ledger, ledger_password_file=None, ray_job=None, num_workers=0
        )
        return cls(profile, case, history, Ledger(ledger))

    def find(self, reference: str) -> tuple[str, UseCase]:
        return reference, self.case

    def ledger(self) -> Ledger:
        return self._ledger

    def data_version(self, case: UseCase) -> str:
        return self.history.data_version

    def runs_folder(self, use_case: str) -> str:
        return storage.join(self.profile.state_uri, "runs")

    @property
    def writes_pages(self) -> bool:
        return False

    # releases --------------------------------------------------------------------------------------------------------

    def open_release(self, release: Release) -> bundle.OpenRelease:
        if release.id not in self._opened:
            self._opened.clear()  # a backtest needs the champion and its challenger, not all that went before
            champion = self._ledger.champion(self.case.name)
            for needed in (champion, release):
                if needed is not None and needed.id not in self._opened:
                    self._opened[needed.id] = bundle.open_release(needed)
        return self._opened[release.id]

    # rows ------------------------------------------------------------------------------------------------------------

    def training_rows(self, case: UseCase, plan: Plan) -> TrainingRows:
        return training_set.training_rows(
            case,
            self.history.log,
            windows=plan.windows,
            now=plan.now,
            champion_cursor=plan.champion.cursor if plan.champion else None,
            mode=plan.mode,
            seed=case.training.seed,
            rows=self.history.rows,
            data_version=self.history.data_version,
        )

    def save_training_set(self, case: UseCase, plan: Plan, rows: TrainingRows) -> TrainingSet:
        """Keep the rows in memory until the next run's; the record names them by the plan's key."""
        self._training_rows.clear()
        self._training_rows[plan.key] = rows
        kept = Ref(uri=f"memory:{plan.key}", digest=rows.row_digest)
        parts = ("train", "gate", "rehearsal") if rows.rehearsal is not None else ("train", "gate")
        return training_set.describe(case, rows, dict.fromkeys(parts, kept))

    def load_training_set(self, saved: TrainingSet) -> TrainingRows:
        return self._training_rows[saved.train.uri.removeprefix("memory:")]

    def count_rows(self, case: UseCase, window: Window) -> int:
        return self.history.count(window)

    # serving ---------------------------------------------------------------------------------------------------------

    def serve(self, window: Window) -> bool:
        """Answer a window's rows with the champion; False if it has none."""
        rows = self.history.between(window)
        champion = self._ledger.champion(self.case.name)
        if rows.num_rows == 0 or champion is None:
            return False
        scored = score_rows(self.open_release(champion), as_served(self.case, rows))
        self._served[window] = (scored, champion.id)
        return True

    @property
    def served(self) -> dict[Window, tuple[pa.Table, str]]:
        """Window → its rows with every label, and the id of the release that answered them."""
        return self._served

    def served_window(self, case: UseCase, window: Window, *, now: datetime) -> ServedWindow:
        rows, release = self._served[window]
        return ServedWindow(mask_unmatured(case, rows, now=now), frozenset([release]))

    def offline_rows(self, case: UseCase, window: Window, *, now: datetime) -> pa.Table | None:
        return None  # the served rows are the offline rows
