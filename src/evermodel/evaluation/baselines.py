"""Baselines that a model must beat. They learn from the training rows, and see only what is known at request time.

- random: a seeded draw for each row.
- majority, mean: the same score for each row: the share of positives (0 or 1 if the metric has a threshold), the
  shares of the classes, or the mean.
- popularity: how often an item was right, over all rows. transition: how often a class was right after the row's current
  item (the catalogue's entity key, as a column of the row), then popularity.
- heuristic: the column that `evaluation.heuristic` names, or a function by import path.
- boosting: scikit-learn's histogram gradient boosting on the feature columns.

A new baseline is an entry of `use_case.BASELINES` and one of `_MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import plugins
from evermodel.columns import codes_in, floats, is_text, plain_values, texts, true_mask, valid_mask
from evermodel.evaluation.samples import label_of
from evermodel.scores import Scores
from evermodel.use_case import BASELINES, METRICS, UseCase

Floats = NDArray[np.float64]
MOST_CLASSES: Final = 50  # boosting grows a tree for each class and round
MOST_ROWS: Final = 200_000  # boosting learns from the newest rows only


@dataclass(frozen=True)
class Baseline:
    """A baseline's scores of the gate's rows; None if it has none, and `reason` says why."""

    name: str
    scores: Scores | None
    reason: str = ""


@dataclass(frozen=True)
class _Task:
    """The input of every baseline: rows with known labels to learn from, and rows to score."""

    use_case: UseCase
    metric: str
    train: pa.Table
    gate: pa.Table
    label: str  # its column
    labels: NDArray[Any]  # of train: float64[n], or str objects[n]
    classes: tuple[str, ...]  # of a category label, else none
    rng: np.random.Generator

    @property
    def is_category(self) -> bool:
        return bool(self.classes)

    @property
    def label_codes(self) -> NDArray[np.int64]:
        """The class of each training row, of a category label."""
        return codes_in(self.train[self.label], self.classes)

    @property
    def has_threshold(self) -> bool:
        return METRICS[self.metric].has_threshold

    def scores(self, values: Floats, classes: tuple[str, ...] | None = None) -> Scores:
        """float64[n], or float64[n, classes] of a category label; the label's classes if None."""
        kind = self.use_case.label(label_of(self.use_case)).type
        return Scores(kind, values, self.classes if classes is None else classes)


def score_baselines(
    use_case: UseCase, train: pa.Table, gate: pa.Table, *, metric: str, fitted: bool, rng: np.random.Generator
) -> tuple[Baseline, ...]:
    """Each baseline that the use case names, and its heuristic; those that cost a fit only if `fitted`."""
    label = f"label:{label_of(use_case)}"
    known = train.filter(pa.array(valid_mask(train[label])))
    if known.num_rows == 0:
        return ()
    kind = use_case.label(label_of(use_case)).type
    labels = known[label].to_numpy()
    classes = tuple(sorted(set(labels.tolist()))) if kind == "category" else ()
    task = _Task(use_case, metric, known, gate, label, labels, classes, rng)
    names = [name for name in use_case.evaluation.baselines if fitted or not BASELINES[name].fitted]
    if use_case.evaluation.heuristic is not None:
        names.append("heuristic")
    return tuple(_MAKERS[name](name, task) for name in names)


def _random(name: str, task: _Task) -> Baseline:
    shape = (task.gate.num_rows, len(task.classes)) if task.is_category else (task.gate.num_rows,)
    drawn = task.rng.random(shape)
    if task.use_case.framing == "regression":
        drawn = task.labels[task.rng.integers(0, len(task.labels), task.gate.num_rows)]
    return Baseline(name, task.scores(drawn / drawn.sum(axis=1, keepdims=True) if task.is_category else drawn))


def _constant(name: str, task: _Task) -> Baseline:
    num_rows = task.gate.num_rows
    if task.is_category:
        return Baseline(name, task.scores(np.tile(_class_shares(task), (num_rows, 1))))
    value = float(task.labels.mean())
    if task.use_case.framing == "binary" and task.has_threshold:
        value = float(value >= 0.5)
    return Baseline(name, task.scores(np.full(num_rows, value)))


def _class_shares(task: _Task) -> Floats:
    counts = np.bincount(task.label_codes, minlength=len(task.classes))
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _distinct_texts(column: pa.ChunkedArray) -> list[str]:
    """The distinct values as text, sorted, without null."""
    return sorted(set(pc.unique(texts(column)).to_pylist()) - {None})


def _popularity(name: str, task: _Task) -> Baseline:
    if task.is_category:
        return _constant(name, task)
    item = task.use_case.predict.item
    if item is None:
        return Baseline(name, None, reason="predict.item names no column")
    train, gate, size = _item_codes(task, item)
    overall = float(task.labels.mean())
    total = np.bincount(train, task.labels, minlength=size) + overall  # the prior: one row of the mean
    rate = np.r_[total / (np.bincount(train, minlength=size) + 1), overall]
    return Baseline(name, task.scores(rate[gate]))


def _transition(name: str, task: _Task) -> Baseline:
    """P(class | item) = (transitions + share of the class) / (times seen + 1): popularity breaks ties and fills gaps."""
    item = _current_item(task.use_case)
    if not task.is_category or item is None:
        return Baseline(name, None, reason="it needs a category label, and a catalogue whose entity key the rows hold")
    train, gate, size = _item_codes(task, item)
    counts = np.zeros((size + 1, len(task.classes)))  # the last row is for unknown items
    np.add.at(counts, (train, task.label_codes), 1.0)
    chance = (counts + _class_shares(task)) / (counts.sum(axis=1, keepdims=True) + 1.0)
    return Baseline(name, task.scores(chance[gate]))


def _item_codes(task: _Task, item: str) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(codes of the training rows, codes of the gate's rows, number of codes); null is an item; −1: not in training."""
    names = _distinct_texts(task.train[item])
    train, gate = (codes_in(table[item], names, null=len(names)) for table in (task.train, task.gate))
    return train, gate, len(names) + 1


def _current_item(use_case: UseCase) -> str | None:
    """The column of the row's current item; never the label's own column."""
    if use_case.predict.catalogue is None:
        return None
    rows = {field.name for field in use_case.prediction_source.fields} - _label_columns(use_case)
    items = {field.name for field in use_case.source(use_case.predict.catalogue).fields}
    return next((entity.key for entity in use_case.entities if entity.key in rows & items), None)


def _label_columns(use_case: UseCase) -> set[str]:
    """The columns of a row that are unknown at request time."""
    return {label.field or label.name for label in use_case.labels if label.kind == "column"}


def _heuristic(name: str, task: _Task) -> Baseline:
    rule = str(task.use_case.evaluation.heuristic)
    if ":" in rule:
        columns = {column: plain_values(task.gate[column]) for column in _request_columns(task.use_case)}
        values = np.asarray(plugins.load(rule, "heuristic")(columns), dtype=np.float64)
        return Baseline(name, task.scores(values))
    if rule in _label_columns(task.use_case):
        return Baseline(name, None, reason=f"{rule!r} is unknown at request time")
    column = task.gate[rule]
    if task.is_category:
        codes = codes_in(column, task.classes)
        table = np.vstack([np.eye(len(task.classes)), _class_shares(task)])  # the last row is for unknown values
        return Baseline(name, task.scores(table[codes]))
    if is_text(column.type):
        positive = task.use_case.label(label_of(task.use_case)).positive
        return Baseline(name, task.scores(true_mask(pc.equal(column, str(positive))).astype(np.float64)))
    numbers = floats(column)
    return Baseline(name, task.scores(np.where(np.isnan(numbers), task.labels.mean(), numbers)))


def _request_columns(use_case: UseCase) -> list[str]:
    """The columns that are known at request time."""
    fields = [field.name for field in use_case.prediction_source.fields if field.name not in _label_columns(use_case)]
    return list(dict.fromkeys([*use_case.feature_columns(), *fields]))


def _boosting(name: str, task: _Task) -> Baseline:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if len(task.classes) > MOST_CLASSES:
        return Baseline(name, None, reason=f"it isn't fitted for {len(task.classes)} classes, at most {MOST_CLASSES}")
    numbers = task.use_case.label(label_of(task.use_case)).type == "number"
    if not numbers and len(set(task.labels.tolist())) < 2:
        return Baseline(name, None, reason="the training rows hold one class only")
    train, gate = _feature_matrices(task)
    labels = task.labels[-MOST_ROWS:]
    seed = int(task.rng.integers(2**31))
    if numbers:
        return Baseline(
            name, task.scores(HistGradientBoostingRegressor(random_state=seed).fit(train, labels).predict(gate))
        )
    model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed).fit(train, labels)
    chances = np.asarray(model.predict_proba(gate), dtype=np.float64)
    if task.is_category:
        return Baseline(name, task.scores(chances, tuple(str(value) for value in model.classes_)))
    return Baseline(name, task.scores(chances[:, 1]))


def _feature_matrices(task: _Task) -> tuple[Floats, Floats]:
    """float64[n, d] of the feature columns, of the training rows and of the gate's; a text is its place among the known."""
    train_columns: list[Floats] = []
    gate_columns: list[Floats] = []
    train = task.train.slice(max(0, task.train.num_rows - MOST_ROWS))
    for column in task.use_case.feature_columns():
        if is_text(train[column].type):
            names = _distinct_texts(train[column])
            for found, table in ((train_columns, train), (gate_columns, task.gate)):
                codes = codes_in(table[column], names)
                found.append(np.where(codes < 0, np.nan, codes))
        else:
            train_columns.append(floats(train[column]))
            gate_columns.append(floats(task.gate[column]))
    return np.column_stack(train_columns), np.column_stack(gate_columns)


_MAKERS: Final[dict[str, Callable[[str, _Task], Baseline]]] = {
    "random": _random,
    "majority": _constant,
    "mean": _constant,
    "popularity": _popularity,
    "transition": _transition,
    "heuristic": _heuristic,
    "boosting": _boosting,
}
