"""Gradient-boosted trees that answer rows, from the text that LightGBM writes: no pickle.

Inputs are the fitted transforms' dense columns, then their ids as categories. Scores of a row are the same in any
company, to the last bit: each row goes down the trees by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.errors import StateError
from evermodel.features.transforms import Inputs, Transforms
from evermodel.scores import Floats, Scores
from evermodel.training.tabular_model import TabularModel
from evermodel.training.task import LabelTargets, Task

TREES = "trees.txt"


class TreeModel(TabularModel):
    """Rows → scores, by the tree of `model.json` and the text of `trees.txt`."""

    def __init__(self, tree: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> None:
        if TREES not in texts:
            raise StateError(f"a bundle of trees needs {TREES}")
        super().__init__(tree)
        self.booster = read_booster(texts[TREES])
        width = len(self.transforms.spec.dense) + len(self.transforms.spec.ids)
        if self.booster.num_feature() != width:
            raise StateError(f"the trees take {self.booster.num_feature()} inputs, the transforms make {width}")

    def to(self, device: str) -> None:
        """Trees answer on the CPU. StateError for any other device."""
        if device != "cpu":
            raise StateError(f"the model can't be put on {device!r}: trees answer on a CPU only")

    def score(self, encoded: Inputs) -> Scores:
        return to_scores(self.task, raw_scores(self.booster, matrix(encoded), self.task))

    def loss(self, rows: pa.Table) -> float:
        """Mean loss on the labelled rows. StateError if there are none."""
        inputs, targets = labelled(self.transforms, self.task, rows)
        return mean_loss(self.task, raw_scores(self.booster, inputs, self.task), targets)


def read_booster(text: str) -> lightgbm.Booster:
    """The trees of a text. StateError if it isn't LightGBM's format."""
    try:
        return lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise StateError(f"{TREES} can't be read: {error}") from None


def matrix(inputs: Inputs) -> NDArray[np.float32]:
    """float32[n, dense + ids]: standardised numbers, then ids as numbers of categories (exact below 2²⁴)."""
    return np.concatenate([inputs.dense, inputs.ids.astype(np.float32)], axis=1)


def labelled(transforms: Transforms, task: Task, rows: pa.Table) -> tuple[NDArray[np.float32], LabelTargets]:
    """The labelled rows' inputs and targets."""
    targets = task.targets(rows)
    kept = rows if len(targets.rows) == len(rows) else rows.take(pa.array(targets.rows))
    return matrix(transforms.apply(kept)), targets


def raw_scores(booster: lightgbm.Booster, inputs: NDArray[np.float32], task: Task) -> Floats:
    """The sums over trees: float64[n], or float64[n, classes] for a category label."""
    if not len(inputs):
        return np.zeros((0, task.outputs) if task.type == "category" else 0)
    return np.asarray(booster.predict(inputs, raw_score=True, num_threads=1), np.float64)


def to_scores(task: Task, raw: Floats) -> Scores:
    """Sums over trees → sigmoid, value in the label's unit, or softmax over the classes."""
    if task.type == "category":
        powers = np.exp(raw - raw.max(axis=1, keepdims=True)) if len(raw) else raw
        return Scores("category", powers / powers.sum(axis=1, keepdims=True), task.classes)
    if task.type == "binary":
        return Scores("binary", 1 / (1 + np.exp(-raw)))
    return Scores("number", raw * task.label_scale)


def mean_loss(task: Task, raw: Floats, targets: LabelTargets) -> float:
    """The mean over rows of weight × loss, as `training.task` defines it. StateError if there are no rows."""
    if not len(targets.values):
        raise StateError("the mean loss of no rows isn't a number")
    return float((_losses(task, raw, np.asarray(targets.values)) * targets.weights).mean())


def _losses(task: Task, raw: Floats, targets: NDArray[Any]) -> Floats:
    if task.type == "category":
        shifted = raw - raw.max(axis=1, keepdims=True)
        own = shifted[np.arange(len(raw)), targets]
        return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - own, np.float64)
    if task.type == "binary":
        return np.asarray(np.logaddexp(0.0, raw) - targets * raw)
    error = np.abs(raw - targets)
    if task.loss == "mae":
        return np.asarray(error)
    if task.loss == "huber":
        return np.asarray(np.where(error <= 1, 0.5 * error**2, error - 0.5), np.float64)
    squared: Floats = error**2
    return squared
