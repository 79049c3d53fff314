"""`train`: one objective's model from a round's rows, packed as a bundle with its training manifest.

The same use case, rows, parent and seed give the same digest: nothing that the clock or the machine's paths say enters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from evermodel import bundle
from evermodel.bundle import Bundle
from evermodel.clock import micros
from evermodel.code_version import code_version
from evermodel.errors import DataError, StateError
from evermodel.failpoint import failpoint
from evermodel.features.training_set import row_digest
from evermodel.records import BundleRef, Mode, TrainingManifest, Window
from evermodel.training.trainer import Fitted, Trainer
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows


@dataclass(frozen=True)
class TrainResult:
    """A packed model and the cost of its training. `losses`: mean training loss of each epoch."""

    ref: BundleRef
    manifest: TrainingManifest
    seconds: float
    losses: tuple[float, ...]


def train(
    use_case: UseCase,
    objective: str,
    rows: TrainingRows,
    *,
    mode: Mode,
    parent: Bundle | None,
    trigger: Window | None,
    now: datetime,
    out: str,
    seed: int | None = None,
    num_workers: int = 0,
    reason: str | None = None,
) -> TrainResult:
    """Train one objective on `rows.train` (and `rows.rehearsal`) and pack it below `out`.

    `stateful` continues from `parent`; `from_scratch` beside a parent is a decision, and `reason` says why. `num_workers`
    0 is the plain loop in this process; more are Ray Train workers (1 gives the same bits). StateError if the parent
    can't be restored whole, DataError if there is nothing to learn from. Neither leaves anything behind.
    """
    _check_known(rows, now)
    if mode == "stateful" and parent is None:
        raise StateError(f"objective {objective!r}: stateful training needs a parent; from_scratch is a decision")
    chosen = use_case.training.seed if seed is None else seed
    trainer = trainer_of(use_case, objective, seed=chosen, num_workers=num_workers, out=out)
    failpoint("train.start")
    fitted = trainer.fit(rows, parent if mode == "stateful" else None)
    manifest = _manifest(
        use_case,
        objective,
        rows,
        fitted,
        mode=mode,
        parent=parent,
        trigger=trigger,
        seed=chosen,
        num_workers=max(num_workers, 1),
        reason=reason,
    )
    ref = bundle.pack(
        out,
        objective=objective,
        model=fitted.model,
        weights=fitted.weights,
        state={**fitted.state, "cursor": micros(rows.cursor)},
        moments=fitted.moments,
        texts=fitted.texts,
        manifest=manifest,
    )
    return TrainResult(ref, manifest, fitted.seconds, fitted.losses)


def _manifest(
    use_case: UseCase,
    objective: str,
    rows: TrainingRows,
    fitted: Fitted,
    *,
    mode: Mode,
    parent: Bundle | None,
    trigger: Window | None,
    seed: int,
    num_workers: int,
    reason: str | None,
) -> TrainingManifest:
    decided = (reason or "asked for") if mode == "from_scratch" and parent is not None else None
    return TrainingManifest(
        use_case=use_case.name,
        objective=objective,
        mode=mode,
        windows=rows.windows,
        gate_window=rows.gate_window,
        rehearsal_rows=fitted.rehearsal_rows,
        rehearsal_window=rows.rehearsal_window,
        trigger=trigger,
        rows=len(fitted.row_ids),
        epochs=fitted.epochs,
        rows_trained=fitted.rows_trained,
        row_digest=row_digest(fitted.row_ids),
        data_version=rows.data_version,
        config_digest=use_case.digest(),
        features=fitted.features,
        code_version=code_version(),
        parent=parent.digest if parent is not None else None,
        seed=seed,
        num_workers=num_workers,
        seconds=fitted.seconds,
        step0_loss=fitted.step0_loss,
        parent_loss=fitted.parent_loss,
        final_loss=fitted.losses[-1],
        cursor=rows.cursor,
        reason=decided,
        not_restored=fitted.not_restored,
    )


def _check_known(rows: TrainingRows, now: datetime) -> None:
    """No row may be from after `now`: a model that saw the future would win every gate until it is live."""
    for part in (rows.train, rows.rehearsal):
        if part is not None and len(part) and (newest := pc.max(part.column("event_time")).as_py()) > now:
            raise DataError(f"a row to train on is from {newest.isoformat()}, after now, {now.isoformat()}")


def trainer_of(use_case: UseCase, objective: str, *, seed: int, num_workers: int, out: str) -> Trainer:
    """The trainer of the objective's `model.kind`. `num_workers` 0: in this process. `out`: where workers meet."""
    if use_case.objective(objective).model.is_trees:
        from evermodel.training.trees.trainer import TreeTrainer

        return TreeTrainer(use_case, objective, seed=seed, num_workers=num_workers, out=out)
    from evermodel.training.torch.trainer import NetworkTrainer

    return NetworkTrainer(use_case, objective, seed=seed, num_workers=num_workers, out=out)
