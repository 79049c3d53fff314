"""What every model of a table has: fitted transforms and a task, from the tree of `model.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from evermodel.features.transforms import Inputs, Transforms
from evermodel.scores import ScoreKind
from evermodel.training.task import Task


class TabularModel:
    """The part of a `ScoringModel` that does not depend on how it learns."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.transforms = Transforms.from_dict(tree["transforms"])
        self.task = Task.from_dict(dict(tree["task"]))

    @property
    def kind(self) -> ScoreKind:
        return self.task.type

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.classes

    def encode(self, rows: pa.Table) -> Inputs:
        """The model's inputs: the transforms of the rows' feature columns."""
        return self.transforms.apply(rows)
