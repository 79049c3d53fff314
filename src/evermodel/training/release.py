"""Train a release: one bundle for each objective. An objective that isn't trained keeps its parent's bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from evermodel import storage
from evermodel.errors import StateError
from evermodel.records import BundleRef, Mode, Release, TrainingManifest, Window
from evermodel.run_folder import RunFolder
from evermodel.training.train import train

if TYPE_CHECKING:
    from evermodel.bundle import OpenRelease
    from evermodel.features.training_set import TrainingRows
    from evermodel.use_case import UseCase


@dataclass(frozen=True)
class TrainedRelease:
    """A new release with the cost of its training: manifests and seconds of the objectives that were trained."""

    release: Release
    manifests: tuple[TrainingManifest, ...]
    seconds: float

    @property
    def rows_trained(self) -> int:
        """Rows × epochs over all objectives, rehearsed rows included."""
        return sum(manifest.rows_trained for manifest in self.manifests)


def train_release(
    use_case: UseCase,
    rows: TrainingRows,
    *,
    parent: OpenRelease | None,
    mode: Mode,
    trigger: Window | None,
    now: datetime,
    out: str,
    seed: int | None = None,
    num_workers: int = 0,
    reason: str | None = None,
    objectives: Sequence[str] | None = None,
) -> TrainedRelease:
    """Train `objectives` (None: all) on the round's rows into `out`; StateError if one has no parent's bundle to keep."""
    wanted = {objective.name for objective in use_case.objectives} if objectives is None else set(objectives)
    bundles: list[BundleRef] = []
    manifests: list[TrainingManifest] = []
    seconds = 0.0
    for objective in use_case.objectives:
        if objective.name not in wanted:
            bundles.append(_kept_bundle(parent, objective.name))
            continue
        result = train(
            use_case,
            objective.name,
            rows,
            mode=mode,
            parent=parent.bundles[objective.name] if parent else None,
            trigger=trigger,
            now=now,
            out=storage.join(out, objective.name),
            seed=seed,
            num_workers=num_workers,
            reason=reason,
        )
        bundles.append(result.ref)
        manifests.append(result.manifest)
        seconds += result.seconds
    release = Release(
        use_case=use_case.name,
        bundles=tuple(bundles),
        weights={objective.name: objective.weight for objective in use_case.objectives},
        cursor=rows.cursor,
        created=now,
        home=out,
        parent=parent.release.id if parent else None,
    )
    RunFolder(out).write_release(release)
    return TrainedRelease(release, tuple(manifests), seconds)


def _kept_bundle(parent: OpenRelease | None, objective: str) -> BundleRef:
    if parent is None:
        raise StateError(
            f"objective {objective!r} isn't trained in this round, and there is no parent whose bundle it could keep"
        )
    return parent.release.bundle(objective)
