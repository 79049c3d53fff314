"""One training round on rows in memory: train, evaluate, and fit the reference that monitoring compares with.

`run_round` does the whole; `workflow.training` does the same steps one by one, through the files of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from evermodel import bundle, storage
from evermodel.evaluation.evaluate import evaluate
from evermodel.features.as_served import as_served
from evermodel.monitoring.drift import Reference, fit_reference
from evermodel.records import EvaluationReport, Mode, Release, Window
from evermodel.run_folder import RunFolder
from evermodel.scores import ServableRelease
from evermodel.training.release import TrainedRelease, train_release

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows
    from evermodel.use_case import UseCase


@dataclass(frozen=True)
class TrainingRound:
    """A challenger that was trained and evaluated."""

    trained: TrainedRelease
    challenger: bundle.OpenRelease
    report: EvaluationReport
    reference: Reference


def run_round(
    use_case: UseCase,
    rows: TrainingRows,
    *,
    champion: bundle.OpenRelease | None,
    mode: Mode,
    trigger: Window | None,
    now: datetime,
    out: str,
    seed: int | None = None,
    reason: str | None = None,
) -> TrainingRound:
    """Train on `rows.train`, evaluate on `rows.gate`, and write release, report and reference to `out`."""
    trained = train_release(
        use_case, rows, parent=champion, mode=mode, trigger=trigger, now=now, out=out, seed=seed, reason=reason
    )
    challenger = bundle.open_release(trained.release)
    report = evaluate(use_case, challenger, champion, rows, now=now)
    reference = make_reference(use_case, challenger, rows, report)
    write_results(trained.release, report, reference)
    return TrainingRound(trained, challenger, report, reference)


def make_reference(
    use_case: UseCase, challenger: ServableRelease, rows: TrainingRows, report: EvaluationReport
) -> Reference:
    """The challenger's reference for monitoring, of the rows as served, because monitoring compares served rows with it."""
    train, gate = as_served(use_case, rows.train), as_served(use_case, rows.gate)
    return fit_reference(
        use_case,
        train,
        challenger.scores(train),
        performance=report.metrics.get(report.metric),
        gate=(gate, challenger.scores(gate)),
        window=Window(start=rows.windows[0].start, end=rows.windows[-1].end),
    )


def write_results(release: Release, report: EvaluationReport, reference: Reference) -> None:
    """Write the report and the reference beside the release's bundles."""
    folder = RunFolder(release.home)
    folder.write_report(report)
    storage.write_text(folder.reference, reference.to_json())


def read_reference(release: Release) -> Reference:
    """The monitoring reference that was written with a release."""
    return Reference.from_json(storage.read_text(RunFolder(release.home).reference))
