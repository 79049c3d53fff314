"""The trainer of networks: the plain loop in this process, or the same loop on Ray Train workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evermodel.bundle import Bundle
from evermodel.training.torch import loop, state
from evermodel.training.torch.losses import loss_function
from evermodel.training.torch.start import Start, begin
from evermodel.training.trainer import Fitted, ObjectiveTrainer

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows


class NetworkTrainer(ObjectiveTrainer):
    """Restores weights, optimizer, scheduler, random state, transforms, vocabularies and the data cursor."""

    def fit(self, rows: TrainingRows, parent: Bundle | None) -> Fitted:
        start = begin(self.use_case, self.objective, rows, parent=parent, seed=self.seed)
        if self.num_workers:
            from evermodel.training.torch import distributed

            result = distributed.fit(
                self.use_case,
                self.objective,
                rows,
                start,
                parent=parent,
                seed=self.seed,
                num_workers=self.num_workers,
                out=self.out,
            )
        else:
            result = optimise(start)
        moments, scalars = state.save(start.learner)
        return Fitted(
            model=start.model_tree(self.use_case, self.objective),
            weights=state.weights_of(start.learner.module),
            state=scalars,
            moments=moments,
            features=start.transforms.columns,
            row_ids=start.row_ids,
            rehearsal_rows=start.rehearsal_rows,
            epochs=result.epochs,
            rows_trained=result.rows_trained,
            seconds=result.seconds,
            losses=result.losses,
            step0_loss=start.step0_loss,
            parent_loss=start.parent_loss,
        )


def optimise(start: Start) -> loop.FitResult:
    """The plain loop, in place on `start.learner`."""
    return loop.run(
        start.learner,
        start.data,
        loss_function(start.task),
        epochs=start.epochs,
        batch_size=start.batch_size,
        validation=start.validation,
        patience=start.patience,
    )
