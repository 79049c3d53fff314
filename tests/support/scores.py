"""Short ways to make `Scores` of plain arrays, and a metric of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from evermodel.evaluation.metrics import figure
from evermodel.evaluation.samples import build_sample
from evermodel.scores import Scores


def binary(values: ArrayLike) -> Scores:
    """Scores of a binary label, float64[n]."""
    return Scores("binary", np.asarray(values, dtype=np.float64))


def category(values: ArrayLike, classes: Sequence[str]) -> Scores:
    """Scores of a category label, float64[n, classes]."""
    return Scores("category", np.asarray(values, dtype=np.float64), tuple(classes))


def metric(
    name: str, scores: Scores, labels: object, *, groups: object = None, k: int = 10, threshold: float = 0.5
) -> float | None:
    """One metric of scores and labels (null: unknown)."""
    return figure(name, build_sample(scores, labels, groups=groups), k=k, threshold=threshold)
