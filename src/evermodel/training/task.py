"""One objective with everything resolved, as a bundle keeps it: label, loss, classes, weights. No learning library here.

| label | default loss | score |
|---|---|---|
| binary | bce, with logits | a probability |
| number | mse of label / label_scale | the predicted value, in the label's unit |
| category | cross_entropy | a distribution over `classes` |

Also huber (δ = 1 in scaled units), mae, and focal (γ = 2; Lin et al. 2017) for a binary label. Losses are means over rows
of weight × loss. Balanced weights have mean 1 on the rows that they were resolved on, and stay the same in later rounds,
so that the losses of parent and child can be compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.errors import DataError, InputError, nearest
from evermodel.use_case import LOSSES, UseCase

LabelType = Literal["binary", "number", "category"]


@dataclass(frozen=True)
class LabelTargets:
    """Target and weight of each labelled row; `rows` are the positions of these rows."""

    rows: NDArray[np.int64]
    values: NDArray[np.float32] | NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """One objective, resolved. `class_weights`: one per class, (negative, positive) for a binary label, empty for a number."""

    label: str
    type: LabelType
    loss: str
    label_scale: float
    class_weight: float | str | None
    class_weights: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.classes) if self.type == "category" else 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Task:
        made = cls(**tree)
        return replace(made, class_weights=tuple(made.class_weights), classes=tuple(made.classes))

    def targets(self, rows: pa.Table) -> LabelTargets:
        """The labelled rows' targets; a null label is unknown, and so is a class that the model doesn't have.

        DataError if the label column is missing, a label is nan, or a binary label isn't 0 or 1.
        """
        column = label_column(rows, self.label)
        if self.type == "category":
            codes = _class_codes(column, self.classes)
            known = np.flatnonzero(codes >= 0)
            values: NDArray[Any] = codes[known]
            weights = np.array(self.class_weights, dtype=np.float32)[values]
            return LabelTargets(known, values, weights)
        known = np.flatnonzero(column.is_valid().to_numpy())
        numbers = _label_numbers(self.label, column.drop_null(), binary=self.type == "binary")
        if self.type == "binary":
            weights = np.array(self.class_weights, dtype=np.float32)[numbers.astype(np.int64)]
        else:
            weights = np.ones(len(numbers), dtype=np.float32)
        return LabelTargets(known, (numbers / self.label_scale).astype(np.float32), weights)


def resolve(use_case: UseCase, objective: str, rows: pa.Table) -> Task:
    """The objective's task by its first rows, which determine classes and balanced weights once.

    DataError if no row is labelled or all have one class; InputError if the loss doesn't fit the label.
    """
    declared = use_case.objective(objective)
    label = use_case.label(declared.label)
    loss = LOSSES[label.type][0] if declared.loss == "default" else declared.loss
    if ":" not in loss and loss not in LOSSES[label.type]:
        raise InputError(
            f"objectives.{objective}.loss = {loss!r} doesn't fit a {label.type} label; "
            + nearest(loss, LOSSES[label.type])
        )
    column = label_column(rows, declared.label).drop_null()
    if not len(column):
        raise DataError(f"objective {objective!r}: none of {len(rows)} rows has a label {declared.label!r}")
    task = Task(declared.label, label.type, loss, declared.label_scale, declared.class_weight)
    if label.type == "number":
        _label_numbers(declared.label, column, binary=False)
        return task
    counts = _class_counts(declared.label, column, binary=label.type == "binary")
    if len(present := [name for name, count in counts.items() if count]) < 2:
        raise DataError(
            f"objective {objective!r}: all {len(column)} labels {declared.label!r} are {present[0]!r}; "
            "a classifier needs two classes"
        )
    classes = tuple(counts) if label.type == "category" else ()
    return replace(task, classes=classes, class_weights=_class_weights(declared.class_weight, list(counts.values())))


def with_classes(task: Task, rows: pa.Table) -> Task:
    """The task with the classes of `rows` that it doesn't have yet appended, sorted; each weighs 1."""
    if task.type != "category":
        return task
    found = {value for value in label_column(rows, task.label).unique().to_pylist() if value is not None}
    new = tuple(sorted(found - set(task.classes)))
    return replace(task, classes=task.classes + new, class_weights=task.class_weights + (1.0,) * len(new))


def label_column(rows: pa.Table, label: str) -> pa.ChunkedArray:
    """The column `label:<name>`; DataError with the nearest name if it is missing."""
    name = f"label:{label}"
    if name not in rows.column_names:
        raise DataError(f"rows have no column {name!r}; {nearest(name, rows.column_names)}")
    return rows.column(name)


def _label_numbers(label: str, column: pa.ChunkedArray, *, binary: bool) -> NDArray[np.float64]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        raise DataError(f"label {label!r} holds text; it must be a number")
    numbers: NDArray[np.float64] = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise DataError(f"label {label!r} is nan or infinite in {bad} of {len(numbers)} rows; an unknown label is null")
    if binary and not np.isin(numbers, (0.0, 1.0)).all():
        odd = float(numbers[~np.isin(numbers, (0.0, 1.0))][0])
        raise DataError(f"label {label!r} is binary, and holds {odd}; it must be 0, 1 or null")
    return numbers


def _class_codes(column: pa.ChunkedArray, classes: tuple[str, ...]) -> NDArray[np.int64]:
    found = pc.index_in(column.cast(pa.string()), value_set=pa.array(classes, pa.string()), skip_nulls=True)
    codes: NDArray[np.int64] = found.fill_null(-1).to_numpy().astype(np.int64)
    return codes


def _class_counts(label: str, column: pa.ChunkedArray, *, binary: bool) -> dict[Any, int]:
    if binary:
        positive = int(_label_numbers(label, column, binary=True).sum())
        return {0: len(column) - positive, 1: positive}
    values, counts = np.unique(np.array(column.cast(pa.string()).to_pylist(), dtype=object), return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def _class_weights(declared: float | str | None, counts: list[int]) -> tuple[float, ...]:
    if declared == "balanced":
        return tuple(sum(counts) / (len(counts) * count) for count in counts)
    if isinstance(declared, float | int) and len(counts) == 2:
        return (1.0, float(declared))
    return (1.0,) * len(counts)
