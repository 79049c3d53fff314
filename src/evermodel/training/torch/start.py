"""Where a network's training starts: fresh weights, or everything that the parent's bundle holds (see `training.parent`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from evermodel.bundle import Bundle
from evermodel.features import transforms as encoders
from evermodel.features.transforms import Transforms
from evermodel.training import task as tasks
from evermodel.training.parent import check_cursor, check_fits, check_fresh, check_step0, sections
from evermodel.training.rows import count_labelled, labelled_ids, split_newest, together
from evermodel.training.task import Task
from evermodel.training.torch import state
from evermodel.training.torch.loop import EncodedRows, Learner, Schedule, make_learner, mean_loss
from evermodel.training.torch.losses import loss_function
from evermodel.training.torch.model import NetworkModel, encode
from evermodel.training.torch.modules import TwoTower, WarmStartable, build
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows


@dataclass(frozen=True)
class Start:
    """All that the loop needs, and what the manifest says of it. `row_ids`: of the rows in `data`."""

    learner: Learner
    transforms: Transforms
    task: Task
    data: EncodedRows
    validation: EncodedRows | None
    epochs: int
    batch_size: int
    patience: int | None
    row_ids: NDArray[np.int64]
    rehearsal_rows: int
    step0_loss: float | None = None
    parent_loss: float | None = None

    def model_tree(self, use_case: UseCase, objective: str) -> dict[str, Any]:
        """What `model.json` holds: enough to put the model together, and to see whether a later round still fits."""
        return {
            "scorer": "torch",
            "use_case": use_case.name,
            "objective": objective,
            **sections(use_case, objective),
            "task": self.task.to_dict(),
            "transforms": self.transforms.to_dict(),
        }


def begin(use_case: UseCase, objective: str, rows: TrainingRows, *, parent: Bundle | None, seed: int) -> Start:
    """From the parent's state, or from scratch if there is no parent. StateError if the state can't be restored whole."""
    if parent is None:
        return from_scratch(use_case, objective, rows, seed=seed)
    return stateful(use_case, objective, rows, parent=parent, seed=seed)


def from_scratch(use_case: UseCase, objective: str, rows: TrainingRows, *, seed: int) -> Start:
    """Transforms, task and weights from the round's rows; with `patience` the newest share of them validates."""
    training = use_case.training
    fitted_on = together(rows.train, rows.rehearsal)
    held: pa.Table | None = None
    if training.patience is not None and use_case.split.validation > 0 and len(fitted_on):
        fitted_on, held = split_newest(fitted_on, use_case.split.validation)
    task = tasks.resolve(use_case, objective, fitted_on)
    transforms = encoders.fit(use_case, objective, fitted_on)
    data = encode(transforms, task, fitted_on)
    steps = training.epochs * -(-len(data) // training.batch_size)
    module = build(use_case.objective(objective).model, transforms.spec, task.outputs, seed=seed)
    if isinstance(module, TwoTower):
        module.start_at(torch.bincount(data.targets, minlength=task.outputs))
    learner = make_learner(
        module,
        optimizer=training.optimizer,
        weight_decay=training.weight_decay,
        schedule=Schedule(training.scheduler, training.learning_rate, steps),
        seed=seed,
    )
    validation = encode(transforms, task, held) if held is not None else None
    return Start(
        learner=learner,
        transforms=transforms,
        task=task,
        data=data,
        validation=validation if validation is not None and len(validation) else None,
        epochs=training.epochs,
        batch_size=training.batch_size,
        patience=training.patience,
        row_ids=labelled_ids(fitted_on, task),
        rehearsal_rows=count_labelled(rows.rehearsal, task),
    )


def stateful(use_case: UseCase, objective: str, rows: TrainingRows, *, parent: Bundle, seed: int) -> Start:
    """The parent's state, restored, verified by its loss, with updated transforms and grown vocabularies and classes."""
    check_fits(use_case, objective, parent.model)
    check_cursor(rows, parent)
    network = parent.scorer
    assert isinstance(network, NetworkModel)
    model, task = use_case.objective(objective).model, network.task
    module = build(model, network.transforms.spec, task.outputs, seed=seed)
    learner = state.restore(module, parent.weights, parent.moments, parent.state)
    state.check_settings(learner, use_case.training)
    fitted_on = together(rows.train, rows.rehearsal)
    settings = use_case.training.stateful
    transforms = network.transforms
    if isinstance(module, WarmStartable):
        transforms, update = transforms.update(fitted_on, restandardise=settings.restandardise)
        learner = state.transfer_state(learner, build(model, transforms.spec, task.outputs, seed=seed), update)
    fresh = encode(transforms, task, rows.train)
    check_fresh(objective, len(fresh), rows)
    parent_loss, step0_loss = parent.loss(rows.train), mean_loss(learner.module, fresh, loss_function(task))
    check_step0(parent_loss, step0_loss, parent.digest)
    grown = tasks.with_classes(task, fitted_on)
    if added := len(grown.classes) - len(task.classes):
        learner = state.add_classes(learner, build(model, transforms.spec, grown.outputs, seed=seed), added)
    if settings.learning_rate is not None:
        learner.schedule = Schedule("constant", settings.learning_rate, learner.schedule.total_steps)
    return Start(
        learner=learner,
        transforms=transforms,
        task=grown,
        data=encode(transforms, grown, fitted_on),
        validation=None,
        epochs=settings.epochs,
        batch_size=settings.batch_size or use_case.training.batch_size,
        patience=None,
        row_ids=labelled_ids(fitted_on, grown),
        rehearsal_rows=count_labelled(rows.rehearsal, grown),
        step0_loss=step0_loss,
        parent_loss=parent_loss,
    )
