"""Where a turn's training starts: fresh weights, or everything that the champion's bundle holds.

A stateful start proves itself: `parent_loss`, by the champion's bundle as serving opens it, and `step0_loss`, by the
restored state after its transforms were moved, are mean losses in eval mode on the same fresh rows, and must be equal.
Any difference is a StateError: a warm start that isn't one would show later, in production.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from evermodel.bundle import Bundle
from evermodel.clock import from_micros, micros
from evermodel.data.splits import newest_share
from evermodel.errors import DataError, StateError
from evermodel.features import transforms as encoders
from evermodel.features.transforms import Transforms
from evermodel.records import Mode
from evermodel.training.torch import objectives, state
from evermodel.training.torch.loop import EncodedRows, Learner, Schedule, make_learner, mean_loss
from evermodel.training.torch.modules import TwoTower, WarmStartable, build
from evermodel.training.torch.objectives import Task
from evermodel.training.torch.scorer import PATH, Scorer, encode
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Start:
    """All that the loop needs, and what the manifest says of it. `row_ids`: int64, of the rows in `data`."""

    learner: Learner
    transforms: Transforms
    task: Task
    data: EncodedRows
    validation: EncodedRows | None
    epochs: int
    batch_size: int
    patience: int | None
    row_ids: np.ndarray[Any, np.dtype[np.int64]]
    rehearsal_rows: int
    step0_loss: float | None = None
    parent_loss: float | None = None

    def model_tree(self, use_case: UseCase, objective: str) -> dict[str, Any]:
        """What `model.json` holds: enough to put the scorer together, and to see whether a later turn still fits."""
        return {
            "scorer": PATH,
            "use_case": use_case.name,
            "objective": objective,
            **sections(use_case, objective),
            "task": self.task.to_dict(),
            "transforms": self.transforms.to_dict(),
        }


def sections(use_case: UseCase, objective: str) -> dict[str, Any]:
    """The parts of the file that a model is built from: while they stay the same, its state can be restored."""
    declared = use_case.objective(objective)
    features = encoders.features_of(use_case, objective)
    return {
        "features": [feature.model_dump(mode="json") for feature in features],
        "model": declared.model.model_dump(mode="json"),
        "objective_section": declared.model_dump(mode="json", include={"label", "loss", "class_weight", "label_scale"}),
        "label_section": use_case.label(declared.label).model_dump(mode="json", include={"name", "type"}),
    }


def begin(
    use_case: UseCase, objective: str, turn: TrainingRows, *, mode: Mode, parent: Bundle | None, seed: int
) -> Start:
    """The start of a turn. StateError where `stateful` has no parent, or one that can't be restored whole."""
    if mode == "from_scratch":
        return from_scratch(use_case, objective, turn, seed=seed)
    if parent is None:
        raise StateError(f"objective {objective!r}: stateful training needs a parent; from_scratch is a decision")
    return stateful(use_case, objective, turn, parent=parent, seed=seed)


def from_scratch(use_case: UseCase, objective: str, turn: TrainingRows, *, seed: int) -> Start:
    """Transforms, task and weights from the turn's rows; with `patience` the newest share of them validates."""
    training = use_case.training
    rows = _together(turn.train, turn.replay)
    held: pa.Table | None = None
    if training.patience is not None and use_case.split.validation > 0 and len(rows):
        rows, held = _split(rows, use_case.split.validation)
    task = objectives.resolve(use_case, objective, rows)
    fitted = encoders.fit(use_case, objective, rows)
    data = encode(fitted, task, rows)
    steps = training.epochs * -(-len(data) // training.batch_size)
    module = build(use_case.objective(objective).model, fitted.spec, task.outputs, seed=seed)
    if isinstance(module, TwoTower):
        module.start_at(torch.bincount(data.targets, minlength=task.outputs))
    learner = make_learner(
        module,
        optimizer=training.optimizer,
        weight_decay=training.weight_decay,
        schedule=Schedule(training.scheduler, training.learning_rate, steps),
        seed=seed,
    )
    validation = encode(fitted, task, held) if held is not None else None
    return Start(
        learner=learner,
        transforms=fitted,
        task=task,
        data=data,
        validation=validation if validation is not None and len(validation) else None,
        epochs=training.epochs,
        batch_size=training.batch_size,
        patience=training.patience,
        row_ids=_ids(rows, task),
        rehearsal_rows=_labelled(turn.replay, task),
    )


def stateful(use_case: UseCase, objective: str, turn: TrainingRows, *, parent: Bundle, seed: int) -> Start:
    """The parent's state, restored, verified by its loss, with moved transforms and grown vocabularies and classes."""
    check_fits(use_case, objective, parent.model)
    if micros(turn.cursor) < parent.state["cursor"]:
        cursor = from_micros(parent.state["cursor"]).isoformat()
        raise StateError(f"the turn ends at {turn.cursor.isoformat()}, before the parent's data cursor, {cursor}")
    scorer = parent.scorer
    assert isinstance(scorer, Scorer)
    model, task = use_case.objective(objective).model, scorer.task
    module = build(model, scorer.transforms.spec, task.outputs, seed=seed)
    learner = state.restore(module, parent.weights, parent.moments, parent.state)
    state.check_settings(learner, use_case.training)
    rows = _together(turn.train, turn.replay)
    settings = use_case.training.stateful
    transforms = scorer.transforms
    if isinstance(module, WarmStartable):
        transforms, move = transforms.move(rows, restandardise=settings.restandardise)
        learner = state.carry(learner, build(model, transforms.spec, task.outputs, seed=seed), move)
    fresh = encode(transforms, task, turn.train)
    if not len(fresh):
        raise DataError(
            f"objective {objective!r}: none of {len(turn.train)} fresh rows has a label that the parent knows"
        )
    parent_loss, step0_loss = parent.loss(turn.train), mean_loss(learner.module, fresh, task.losses())
    check_step0(parent_loss, step0_loss, parent.digest)
    grown = objectives.with_classes(task, rows)
    if added := len(grown.classes) - len(task.classes):
        learner = state.add_classes(learner, build(model, transforms.spec, grown.outputs, seed=seed), added)
    if settings.learning_rate is not None:
        learner.schedule = Schedule("constant", settings.learning_rate, learner.schedule.total_steps)
    return Start(
        learner=learner,
        transforms=transforms,
        task=grown,
        data=encode(transforms, grown, rows),
        validation=None,
        epochs=settings.epochs,
        batch_size=settings.batch_size or use_case.training.batch_size,
        patience=None,
        row_ids=_ids(rows, grown),
        rehearsal_rows=_labelled(turn.replay, grown),
        step0_loss=step0_loss,
        parent_loss=parent_loss,
    )


def check_fits(use_case: UseCase, objective: str, parent: Mapping[str, Any]) -> None:
    """StateError where the file's features, model or objective aren't those that the parent was built from."""
    for name, section in sections(use_case, objective).items():
        if parent.get(name) != section:
            what = {"objective_section": "objective", "label_section": "label"}.get(name, name)
            raise StateError(
                f"objective {objective!r}: the use case's {what} section isn't the one that the parent was trained with, "
                "so its state can't be restored; train from_scratch, with the reason"
            )


def check_step0(parent_loss: float, step0_loss: float, parent: str) -> None:
    """StateError unless both losses are the same to 1e-5, relative where they are above 1."""
    if not abs(parent_loss - step0_loss) <= TOLERANCE * max(1.0, abs(parent_loss)):  # nan isn't equal either
        raise StateError(
            f"the restored state isn't the parent's function: loss {step0_loss:.8f} at step 0, "
            f"{parent_loss:.8f} by bundle {parent[:12]} on the same rows"
        )


def _together(train: pa.Table, replay: pa.Table | None) -> pa.Table:
    return train if replay is None else pa.concat_tables([train, replay], promote_options="permissive")


def _split(rows: pa.Table, share: float) -> tuple[pa.Table, pa.Table]:
    """(older, newest share) by event time."""
    times = rows.column("event_time").cast(pa.int64()).to_numpy()
    newest = times >= newest_share(times, share)
    return rows.filter(pa.array(~newest)), rows.filter(pa.array(newest))


def _ids(rows: pa.Table, task: Task) -> np.ndarray[Any, np.dtype[np.int64]]:
    ids: np.ndarray[Any, np.dtype[np.int64]] = rows.column("row_id").to_numpy()[task.targets(rows).rows]
    return ids


def _labelled(rows: pa.Table | None, task: Task) -> int:
    return 0 if rows is None else len(task.targets(rows).rows)
