"""How an objective learns: the `Trainer` protocol, and what a trainer returns.

`training.torch` has networks, `training.trees` has gradient-boosted trees. A trainer knows nothing of bundles on disk, runs
or the gate: it turns rows and perhaps a parent into what a bundle holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evermodel.bundle import Bundle
from evermodel.use_case import UseCase

if TYPE_CHECKING:
    from evermodel.features.training_set import TrainingRows

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Fitted:
    """A trained model as a bundle holds it, and what the training manifest says of its making.

    `losses`: the mean training loss after each epoch (trees: each boosting round). `seconds`: of optimisation alone.
    `not_restored`: what of the parent's state the kind of model can't restore.
    """

    model: Mapping[str, Any]  # model.json
    weights: Arrays
    state: Mapping[str, Any]
    moments: Arrays
    features: tuple[str, ...]
    row_ids: NDArray[np.int64]
    rehearsal_rows: int
    epochs: int
    rows_trained: int
    seconds: float
    losses: tuple[float, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    step0_loss: float | None = None
    parent_loss: float | None = None
    not_restored: tuple[str, ...] = ()


@dataclass(frozen=True)
class ObjectiveTrainer:
    """What every kind of trainer is made of. `num_workers` 0: in this process. `out`: the folder where workers meet."""

    use_case: UseCase
    objective: str
    seed: int
    num_workers: int
    out: str


class Trainer(Protocol):
    """One objective's way to learn."""

    def fit(self, rows: TrainingRows, parent: Bundle | None) -> Fitted:
        """Train on `rows.train` and `rows.rehearsal`: from `parent`'s state, or from scratch if there is none.

        StateError if the parent can't be restored whole, DataError if there is nothing to learn from.
        """
        ...
