"""One turn of the loop on rows in memory: train, judge, and leave what monitoring will compare with.

`replay` takes it whole; the training pipeline takes the same steps one component each. So both give the same release.
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
from evermodel.scores import ServableRelease
from evermodel.training.release import TrainedRelease, train_release

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows
    from evermodel.use_case import UseCase


@dataclass(frozen=True)
class Turn:
    """A challenger that was trained and judged."""

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
) -> Turn:
    """Train on `rows.train`, judge on `rows.gate`, fit the monitoring reference; all of it is left in `out`."""
    trained = train_release(
        use_case, rows, parent=champion, mode=mode, trigger=trigger, now=now, out=out, seed=seed, reason=reason
    )
    challenger = bundle.open_release(trained.release)
    report = evaluate(use_case, challenger, champion, rows, now=now)
    reference = reference_of(use_case, challenger, rows, report)
    leave(trained.release, report, reference)
    return Turn(trained, challenger, report, reference)


def reference_of(
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


def leave(release: Release, report: EvaluationReport, reference: Reference) -> None:
    """Write the report and the reference beside the release's bundles."""
    storage.write_text(storage.join(release.home, "report.json"), report.to_json())
    storage.write_text(storage.join(release.home, "reference.json"), reference.to_json())


def reference_for(release: Release) -> Reference:
    """The monitoring reference that was left with a release."""
    return Reference.from_json(storage.read_text(storage.join(release.home, "reference.json")))
