"""`train`: one objective's model from a turn's rows, packed as a bundle with its training manifest.

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
from evermodel.errors import DataError
from evermodel.failpoint import failpoint
from evermodel.features.training_set import row_digest
from evermodel.records import BundleRef, Mode, TrainingManifest, Window
from evermodel.training.torch import loop, state
from evermodel.training.torch.loop import FitResult
from evermodel.training.torch.start import Start, begin
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows


@dataclass(frozen=True)
class TrainResult:
    """A packed model, and what its optimisation took. `losses`: mean training loss of each epoch."""

    ref: BundleRef
    manifest: TrainingManifest
    seconds: float
    losses: tuple[float, ...]


def train(
    use_case: UseCase,
    objective: str,
    turn: TrainingRows,
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
    """Train one objective on `turn.train` (and replay) and pack it below `out`.

    `stateful` goes on from `parent`; `from_scratch` beside a parent is a decision, and `reason` says why. `num_workers`
    0 is the plain loop in this process, more are Ray Train workers (1 gives the same bits). StateError where the parent
    can't be restored whole, DataError where there is nothing to learn from. Nothing is left behind by either.
    """
    _check_known(turn, now)
    chosen = use_case.training.seed if seed is None else seed
    start = begin(use_case, objective, turn, mode=mode, parent=parent, seed=chosen)
    failpoint("train.start")
    if num_workers:
        from evermodel.training.torch import distributed

        outcome = distributed.fit(
            use_case, objective, turn, start, mode=mode, parent=parent, seed=chosen, num_workers=num_workers, out=out
        )
    else:
        outcome = optimise(start)
    manifest = _manifest(
        use_case, objective, turn, start, outcome, mode=mode, parent=parent, trigger=trigger, seed=chosen, reason=reason
    )
    manifest = manifest.model_copy(update={"num_workers": max(num_workers, 1)})
    moments, scalars = state.save(start.learner)
    ref = bundle.pack(
        out,
        objective=objective,
        model=start.model_tree(use_case, objective),
        weights=state.weights_of(start.learner.module),
        state={**scalars, "cursor": micros(turn.cursor)},
        moments=moments,
        manifest=manifest,
    )
    return TrainResult(ref, manifest, outcome.seconds, outcome.losses)


def optimise(start: Start) -> FitResult:
    """The plain loop, in place on `start.learner`."""
    return loop.run(
        start.learner,
        start.data,
        start.task.losses(),
        epochs=start.epochs,
        batch_size=start.batch_size,
        validation=start.validation,
        patience=start.patience,
    )


def _manifest(
    use_case: UseCase,
    objective: str,
    turn: TrainingRows,
    start: Start,
    outcome: FitResult,
    *,
    mode: Mode,
    parent: Bundle | None,
    trigger: Window | None,
    seed: int,
    reason: str | None,
) -> TrainingManifest:
    decided = (reason or "asked for") if mode == "from_scratch" and parent is not None else None
    return TrainingManifest(
        use_case=use_case.name,
        objective=objective,
        mode=mode,
        windows=turn.windows,
        gate_window=turn.gate_window,
        rehearsal_rows=start.rehearsal_rows,
        rehearsal_window=turn.rehearsal_window,
        trigger=trigger,
        rows=len(start.data),
        epochs=outcome.epochs,
        rows_trained=outcome.rows_trained,
        row_digest=row_digest(start.row_ids),
        data_version=turn.data_version,
        config_digest=use_case.digest(),
        features=start.transforms.columns,
        code_version=code_version(),
        parent=parent.digest if parent is not None else None,
        seed=seed,
        seconds=outcome.seconds,
        step0_loss=start.step0_loss,
        parent_loss=start.parent_loss,
        final_loss=outcome.losses[-1],
        cursor=turn.cursor,
        reason=decided,
    )


def _check_known(turn: TrainingRows, now: datetime) -> None:
    """No row may be from after `now`: a model that saw the future would win every gate until it is live."""
    for part in (turn.train, turn.replay):
        if part is not None and len(part) and (newest := pc.max(part.column("event_time")).as_py()) > now:
            raise DataError(f"a row to train on is from {newest.isoformat()}, after now, {now.isoformat()}")
