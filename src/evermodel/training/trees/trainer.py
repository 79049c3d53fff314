"""The trainer of gradient-boosted trees: from scratch, or stateful by trees that are added to the parent's.

Boosting has no optimizer state to restore: each new tree is fitted to the errors of all earlier ones, so the parent's trees
are the whole state. The parent's transforms stay as they were fitted, because a tree's thresholds and categories can't be
re-expressed for other means or vocabularies; so at step 0 the function is the parent's. Trees train in one process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel import storage
from evermodel.bundle import Bundle
from evermodel.errors import StateError
from evermodel.features import transforms as encoders
from evermodel.features.transforms import Transforms
from evermodel.records import canonical_json
from evermodel.run_folder import RunFolder
from evermodel.training import task as tasks
from evermodel.training.parent import check_cursor, check_fits, check_fresh, check_step0, sections
from evermodel.training.rows import count_labelled, labelled_ids, split_newest, together
from evermodel.training.task import LabelTargets, Task
from evermodel.training.trainer import Fitted, ObjectiveTrainer
from evermodel.training.trees.model import TREES, TreeModel, labelled, mean_loss, raw_scores, read_booster

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

NOT_RESTORED = ("optimizer state: boosting has none",)
#: Loss → LightGBM's objective and the metric that measures it.
LOSSES = {
    "bce": ("binary", "binary_logloss"),
    "mse": ("regression", "l2"),
    "mae": ("regression_l1", "l1"),
    "huber": ("huber", "huber"),
    "cross_entropy": ("multiclass", "multi_logloss"),
}


class TreeTrainer(ObjectiveTrainer):
    """Restores trees, transforms, vocabularies, classes and the data cursor."""

    def fit(self, rows: TrainingRows, parent: Bundle | None) -> Fitted:
        fitted = self._from_scratch(rows) if parent is None else self._stateful(rows, parent)
        if self.num_workers:  # whoever waits for workers asks where they were
            node = os.environ.get("NODE_NAME") or socket.gethostname()
            storage.write_text(RunFolder(self.out).workers, canonical_json([{"rank": 0, "node": node, "epoch": 0}]))
        return fitted

    def _from_scratch(self, rows: TrainingRows) -> Fitted:
        """With `patience` the newest share of the rows validates, and the best number of trees is kept."""
        training = self.use_case.training
        fitted_on = together(rows.train, rows.rehearsal)
        held: pa.Table | None = None
        if training.patience is not None and self.use_case.split.validation > 0 and len(fitted_on):
            fitted_on, held = split_newest(fitted_on, self.use_case.split.validation)
        task = tasks.resolve(self.use_case, self.objective, fitted_on)
        transforms = encoders.fit(self.use_case, self.objective, fitted_on)
        options = self.use_case.objective(self.objective).model.tree_options
        validation = labelled(transforms, task, held) if held is not None else None
        boosting = self._boost(fitted_on, transforms, task, options.trees, validation=validation)
        return self._fitted(rows, fitted_on, transforms, task, boosting)

    def _stateful(self, rows: TrainingRows, parent: Bundle) -> Fitted:
        """Trees added to the parent's. StateError if its function isn't restored, or a class is new to it."""
        check_fits(self.use_case, self.objective, parent.model)
        check_cursor(rows, parent)
        model = parent.scorer
        assert isinstance(model, TreeModel)
        transforms, task = model.transforms, model.task
        fitted_on = together(rows.train, rows.rehearsal)
        self._check_classes(task, fitted_on)
        restored = read_booster(parent.texts[TREES])
        inputs, targets = labelled(transforms, task, rows.train)
        check_fresh(self.objective, len(inputs), rows)
        parent_loss = parent.loss(rows.train)
        step0_loss = mean_loss(task, raw_scores(restored, inputs, task), targets)
        check_step0(parent_loss, step0_loss, parent.digest)
        options = self.use_case.objective(self.objective).model.tree_options
        boosting = self._boost(fitted_on, transforms, task, options.added_trees, start=restored)
        return self._fitted(rows, fitted_on, transforms, task, boosting, losses=(step0_loss, parent_loss))

    def _check_classes(self, task: Task, rows: pa.Table) -> None:
        grown = tasks.with_classes(task, rows)
        if new := grown.classes[len(task.classes) :]:
            raise StateError(
                f"objective {self.objective!r}: class {new[0]!r} is new to the parent ({len(new)} such), and trees can't "
                "be given more classes; train from_scratch, with the reason"
            )

    def _boost(
        self,
        rows: pa.Table,
        transforms: Transforms,
        task: Task,
        trees: int,
        *,
        start: lightgbm.Booster | None = None,
        validation: tuple[NDArray[np.float32], LabelTargets] | None = None,
    ) -> Boosting:
        """Fit `trees` boosting rounds, after those of `start`."""
        inputs, targets = labelled(transforms, task, rows)
        dense, names = len(transforms.spec.dense), len(transforms.spec.dense) + len(transforms.spec.ids)
        data = lightgbm.Dataset(
            inputs,
            targets.values,
            weight=targets.weights,
            params=QUIET,
            categorical_feature=list(range(dense, names)),
            free_raw_data=False,
        )
        watched, known = [data], ["training"]
        callbacks: list[Any] = []
        if validation is not None and len(validation[0]):
            held, wanted = validation
            watched.append(lightgbm.Dataset(held, wanted.values, weight=wanted.weights, reference=data, params=QUIET))
            known.append("validation")
            patience = self.use_case.training.patience or trees
            callbacks.append(lightgbm.early_stopping(patience, first_metric_only=True, verbose=False))
        record: dict[str, dict[str, list[float]]] = {}
        began = perf_counter()
        booster = lightgbm.train(
            self._parameters(task),
            data,
            num_boost_round=trees,
            init_model=start,
            valid_sets=watched,
            valid_names=known,
            callbacks=[*callbacks, lightgbm.record_evaluation(record)],
        )
        seconds = perf_counter() - began
        kept = booster.best_iteration if booster.best_iteration > 0 else booster.current_iteration()
        scale = float(targets.weights.mean())  # LightGBM divides by the weights' sum, our losses by the rows
        losses = tuple(scale * value for value in next(iter(record["training"].values())))
        return Boosting(booster.model_to_string(num_iteration=kept), losses, len(inputs), seconds)

    def _parameters(self, task: Task) -> dict[str, Any]:
        objective, metric = LOSSES[task.loss]
        options = self.use_case.objective(self.objective).model.tree_options
        return {
            **QUIET,
            "objective": objective,
            "metric": metric,
            "num_class": task.outputs if task.type == "category" else 1,
            "alpha": 1.0,  # δ of huber
            "num_leaves": options.leaves,
            "learning_rate": options.learning_rate,
            "min_data_in_leaf": options.min_rows,
            "lambda_l2": options.l2,
            "seed": self.seed,
        }

    def _fitted(
        self,
        rows: TrainingRows,
        fitted_on: pa.Table,
        transforms: Transforms,
        task: Task,
        boosting: Boosting,
        *,
        losses: tuple[float, float] | None = None,
    ) -> Fitted:
        return Fitted(
            model={
                "scorer": "trees",
                "use_case": self.use_case.name,
                "objective": self.objective,
                **sections(self.use_case, self.objective),
                "task": task.to_dict(),
                "transforms": transforms.to_dict(),
            },
            weights={},
            state={"seed": self.seed},
            moments={},
            texts={TREES: boosting.text},
            features=transforms.columns,
            row_ids=labelled_ids(fitted_on, task),
            rehearsal_rows=count_labelled(rows.rehearsal, task),
            epochs=len(boosting.losses),
            rows_trained=len(boosting.losses) * boosting.rows,
            seconds=boosting.seconds,
            losses=boosting.losses,
            step0_loss=losses[0] if losses else None,
            parent_loss=losses[1] if losses else None,
            not_restored=NOT_RESTORED if losses else (),
        )


@dataclass(frozen=True)
class Boosting:
    """Trees as text, and what fitting them took. `losses`: mean training loss after each boosting round."""

    text: str
    losses: tuple[float, ...]
    rows: int
    seconds: float


#: One thread and a fixed layout: the same rows and seed give the same trees.
QUIET: dict[str, Any] = {
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "feature_pre_filter": False,
}
