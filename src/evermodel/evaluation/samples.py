"""Scores with the labels that came true: the rows that a metric is computed on.

A row without a known label (null, NaN) is left out. A label that the model has no class for counts as a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.columns import codes_in, codes_with_null, floats, texts, to_scalar, true_mask, valid_mask
from evermodel.errors import DataError
from evermodel.scores import Scores
from evermodel.use_case import UseCase

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Labels: TypeAlias = Any  # arrow array, numpy array or sequence; null and NaN are unknown


@dataclass(frozen=True)
class Sample:
    """Scores and known labels of the same n rows.

    labels: float64[n], or int64[n] of a category: the place in `classes`, which holds the model's classes, and after
    them those that it doesn't know. groups: int64[n], which list of a ranking a row is in; None if a row is no part of one.
    """

    scores: Scores
    labels: NDArray[Any]
    groups: Ints | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_category(self) -> bool:
        return self.scores.is_category

    def take(self, keep: Bools) -> Sample:
        """The rows of a mask, bool[n]."""
        groups = None if self.groups is None else self.groups[keep]
        return Sample(self.scores.take(keep), self.labels[keep], groups, self.classes)


def build_sample(scores: Scores, labels: Labels, *, groups: Labels | None = None) -> Sample:
    """The rows with a known label. DataError if there are more or fewer labels than scores."""
    if len(scores) != len(labels):
        raise DataError(f"{len(scores)} scores for {len(labels)} labels")
    column = _as_column(labels)
    known = valid_mask(column, nan_is_null=True)
    lists = None if groups is None else codes_with_null(_as_column(groups))[known]
    kept = column.filter(pa.array(known))
    scores = scores.take(known)
    if not scores.is_category:
        return Sample(scores, floats(kept), lists)
    names = set(pc.unique(texts(kept)).to_pylist())
    classes = (*scores.classes, *sorted(names - set(scores.classes)))
    return Sample(scores, codes_in(kept, classes), lists, classes)


def _as_column(values: Labels) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, from_pandas=True)


# of a use case ------------------------------------------------------------------------------------------------------


def label_of(use_case: UseCase) -> str:
    """The label that a release is evaluated by: the first objective's."""
    return use_case.objectives[0].label


def sample_of(use_case: UseCase, rows: pa.Table, scores: Scores) -> Sample:
    """The sample of a rows table: the first objective's label, and the lists by the prediction source's group."""
    group = use_case.predict.group
    groups = rows[group] if use_case.framing == "ranking" and group and not scores.is_category else None
    return build_sample(scores, rows[f"label:{label_of(use_case)}"], groups=groups)


def evaluated_rows(use_case: UseCase, rows: pa.Table) -> Bools:
    """bool[n]: the rows that have the values of `evaluation.rows`."""
    keep = np.ones(rows.num_rows, dtype=bool)
    for column, value in use_case.evaluation.rows.items():
        wanted = to_scalar(value, rows.schema.field(column).type, column)
        keep &= true_mask(pc.equal(rows[column], wanted))
    return keep


def served_scores(use_case: UseCase, served: pa.Table) -> Scores | None:
    """The scores of served rows (those of the first objective if there are no combined ones); None if the table has none.

    Of a category, served rows hold the order of the best classes only (`classes`). A class's score is 1, 1/2, 1/3, … by
    its place, and 0 if it isn't among them.
    """
    kind = use_case.label(label_of(use_case)).type
    if kind == "category":
        return _scores_by_place(served["classes"].to_pylist()) if "classes" in served.column_names else None
    names = [name for name in ("score", f"score:{use_case.objectives[0].name}") if name in served.column_names]
    return Scores(kind, floats(served[names[0]])) if names else None


def _scores_by_place(lists: Sequence[Sequence[str] | None]) -> Scores:
    classes = tuple(sorted({name for row in lists for name in row or ()}))
    column = {name: index for index, name in enumerate(classes)}
    values = np.zeros((len(lists), len(classes)))
    for scores, row in zip(values, lists, strict=True):
        scores[[column[name] for name in row or ()]] = 1 / np.arange(1, len(row or ()) + 1)
    return Scores("category", values, classes)
