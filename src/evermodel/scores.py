"""A model's answers to rows, and what can give them.

`Scores` says of what kind the numbers are, so that nobody has to guess it from their shape. A `ServableRelease` is a
release whose models are loaded: evaluation, serving, batch prediction and the backtest know no other kind of scorer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.errors import DataError, nearest
from evermodel.records import Release

Floats = NDArray[np.float64]
ScoreKind = Literal["binary", "number", "category"]  # the label's type


@dataclass(frozen=True)
class Scores:
    """The scores of n rows. DataError if the shape isn't the kind's.

    `binary`: float64[n], the probability of a positive label, or a sum of such scores. `number`: float64[n], the
    predicted value. `category`: float64[n, len(classes)], one score for each of `classes`.
    """

    kind: ScoreKind
    values: Floats
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.values), len(self.classes)) if self.is_category else (len(self.values),)
        if self.values.shape != expected:
            raise DataError(f"{self.kind} scores have the shape {self.values.shape}, not {expected}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_category(self) -> bool:
        return self.kind == "category"

    @property
    def best(self) -> Floats:
        """One number a row, float64[n]: the score itself, or the highest class's."""
        return self.values.max(axis=1) if self.is_category else self.values

    @property
    def finite(self) -> NDArray[np.bool_]:
        """bool[n]: rows in which every score is a finite number."""
        known: NDArray[np.bool_] = np.isfinite(self.values)
        return np.asarray(known.all(axis=1)) if self.is_category else known

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Scores:
        """The scores of some rows, by mask or by index."""
        return Scores(self.kind, self.values[rows], self.classes)


class ScoringModel(Protocol):
    """One objective's model, as a bundle opens it. The score of a row does not depend on the other rows."""

    @property
    def kind(self) -> ScoreKind: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns of a category's scores; empty for other kinds."""
        ...

    def to(self, device: str) -> None:
        """Answer on `cpu` or `cuda` from now on; StateError if the model can't."""
        ...

    def encode(self, rows: pa.Table) -> Any:
        """The model's inputs. Models with equal transforms have equal inputs, and may share them."""
        ...

    def score(self, encoded: Any) -> Scores:
        """The scores of encoded rows."""
        ...

    def loss(self, rows: pa.Table) -> float:
        """Mean training loss in evaluation mode on the labelled rows; StateError if there are none."""
        ...


class ServableRelease(Protocol):
    """A release whose models are loaded and answer rows. `bundle.OpenRelease` is one."""

    @property
    def release(self) -> Release: ...

    @property
    def bundle_digests(self) -> Mapping[str, str]:
        """Objective → the digest of its bundle."""
        ...

    def scores(self, rows: pa.Table) -> dict[str, Scores]:
        """Each objective's scores of the rows."""
        ...


def combine(scores: Mapping[str, Scores], weights: Mapping[str, float]) -> Scores:
    """Σ weight × score over the objectives that have a weight; of the first one's kind.

    DataError if a weight names no objective, there is no weight at all, or categories with other classes are added.
    """
    for name in weights:
        if name not in scores:
            raise DataError(f"weight of {name!r}: the release has no such objective; {nearest(name, scores)}")
    if not weights:
        raise DataError("a score needs the weight of at least one objective")
    parts = [(weight, scores[name]) for name, weight in weights.items()]
    first = parts[0][1]
    if len({(part.is_category, part.classes) for _, part in parts}) > 1:
        names = ", ".join(sorted(weights))
        raise DataError(f"the scores of {names} don't rank the same classes: no sum of them is one score")
    values = [weight * part.values for weight, part in parts]
    return Scores(first.kind, np.sum(values, axis=0) if len(values) > 1 else values[0], first.classes)
