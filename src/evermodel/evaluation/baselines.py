"""What a model must be better than. Fitted on the turn's training rows, and told only what is known when it answers.

- random: a seeded draw for each row.
- majority, mean: the same answer for each row: the share of positives (as a hard 0 or 1 where the metric has a
  threshold), the shares of the classes, or the mean.
- popularity: how often an item was right, whoever asked. transition: how often a class was right after the item that the
  row stands at (the catalogue's entity key, as a column of the row), then popularity.
- heuristic: the column that `evaluation.heuristic` names, or an import path.
- boosting: scikit-learn's histogram gradient boosting on the feature columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import plugins
from evermodel.evaluation.metrics import label_of
from evermodel.features.point_in_time import floats
from evermodel.use_case import UseCase

Floats = NDArray[np.float64]
THRESHOLDED: Final = frozenset({"accuracy", "f1"})
MOST_CLASSES: Final = 50  # boosting grows a tree a class and a round: no more than these
MOST_ROWS: Final = 200_000  # boosting learns from the newest of them


@dataclass(frozen=True)
class Baseline:
    """Its scores of the gate's rows, in a model's shapes; None where there are none, and `note` says why."""

    name: str
    scores: Floats | None
    classes: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class _Task:
    """What every baseline is given: rows with known labels to learn from, rows to answer."""

    use_case: UseCase
    metric: str
    train: pa.Table
    gate: pa.Table
    labels: NDArray[Any]  # of train: float64[n], or str objects[n]
    classes: tuple[str, ...]  # the label's, where it is a category
    rng: np.random.Generator

    @property
    def categories(self) -> bool:
        return bool(self.classes)


def baselines(
    use_case: UseCase, train: pa.Table, gate: pa.Table, *, metric: str, fitted: bool, rng: np.random.Generator
) -> tuple[Baseline, ...]:
    """Each baseline that the use case names, and its heuristic; boosting only where `fitted`."""
    label = f"label:{label_of(use_case)}"
    known = train.filter(pc.is_valid(train[label]))
    if known.num_rows == 0:
        return ()
    kind = use_case.label(label_of(use_case)).type
    labels = known[label].to_numpy()
    classes = tuple(sorted(set(labels.tolist()))) if kind == "category" else ()
    task = _Task(use_case, metric, known, gate, labels, classes, rng)
    names = [name for name in use_case.evaluation.baselines if fitted or name != "boosting"]
    if use_case.evaluation.heuristic is not None:
        names.append("heuristic")
    return tuple(_MAKERS[name](name, task) for name in names)


def _random(name: str, task: _Task) -> Baseline:
    shape = (task.gate.num_rows, len(task.classes)) if task.categories else (task.gate.num_rows,)
    drawn = task.rng.random(shape)
    if task.use_case.framing == "regression":
        drawn = task.labels[task.rng.integers(0, len(task.labels), task.gate.num_rows)]
    return Baseline(name, drawn / drawn.sum(axis=1, keepdims=True) if task.categories else drawn, task.classes)


def _constant(name: str, task: _Task) -> Baseline:
    num_rows = task.gate.num_rows
    if task.categories:
        return Baseline(name, np.tile(_shares(task), (num_rows, 1)), task.classes)
    value = float(task.labels.mean())
    if task.use_case.framing == "binary" and task.metric in THRESHOLDED:
        value = float(value >= 0.5)
    return Baseline(name, np.full(num_rows, value))


def _shares(task: _Task) -> Floats:
    counts = np.bincount(_codes(task.labels, task.classes), minlength=len(task.classes))
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _codes(values: Sequence[Any] | NDArray[Any], names: Sequence[Any]) -> NDArray[np.int64]:
    """The place of each value in `names`, −1 where it has none."""
    place = {name: index for index, name in enumerate(names)}
    return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def _popularity(name: str, task: _Task) -> Baseline:
    if task.categories:
        return _constant(name, task)
    item = task.use_case.predict.item
    if item is None:
        return Baseline(name, None, note="predict.item names no column")
    items = task.train[item].to_pylist()
    names = sorted(set(items), key=str)
    codes = _codes(items, names)
    overall = float(task.labels.mean())
    total = np.bincount(codes, task.labels, minlength=len(names)) + overall  # one row's worth of the mean as prior
    rate = np.r_[total / (np.bincount(codes, minlength=len(names)) + 1), overall]
    return Baseline(name, rate[_codes(task.gate[item].to_pylist(), names)])


def _transition(name: str, task: _Task) -> Baseline:
    """P(class | item) = (transitions + share of the class) / (times seen + 1): popularity breaks ties and fills gaps."""
    item = _standing_at(task.use_case)
    if not task.categories or item is None:
        return Baseline(
            name, None, note="it needs a label of categories, and a catalogue whose entity key the rows hold"
        )
    items = task.train[item].to_pylist()
    names = sorted(set(items), key=str)
    seen = np.zeros((len(names) + 1, len(task.classes)))  # the last row is of items never seen
    np.add.at(seen, (_codes(items, names), _codes(task.labels, task.classes)), 1.0)
    chance = (seen + _shares(task)) / (seen.sum(axis=1, keepdims=True) + 1.0)
    return Baseline(name, chance[_codes(task.gate[item].to_pylist(), names)], task.classes)


def _standing_at(use_case: UseCase) -> str | None:
    """The row's column that holds the item it stands at; never the label's own column."""
    if use_case.predict.catalogue is None:
        return None
    rows = {field.name for field in use_case.prediction_source.fields} - _outcomes(use_case)
    items = {field.name for field in use_case.source(use_case.predict.catalogue).fields}
    return next((entity.key for entity in use_case.entities if entity.key in rows & items), None)


def _outcomes(use_case: UseCase) -> set[str]:
    """The columns of a row that are known only after it was answered."""
    return {label.field or label.name for label in use_case.labels if label.kind == "column"}


def _heuristic(name: str, task: _Task) -> Baseline:
    rule = str(task.use_case.evaluation.heuristic)
    if ":" in rule:
        columns = {column: _array(task.gate[column]) for column in _answerable(task.use_case)}
        return Baseline(name, np.asarray(plugins.load(rule, "heuristic")(columns), dtype=np.float64), task.classes)
    if rule in _outcomes(task.use_case):
        return Baseline(name, None, note=f"{rule!r} is known only after the answer")
    values = task.gate[rule]
    if task.categories:
        codes = _codes([None if value is None else str(value) for value in values.to_pylist()], task.classes)
        table = np.vstack([np.eye(len(task.classes)), _shares(task)])  # the last row is of values never seen
        return Baseline(name, table[codes], task.classes)
    if pa.types.is_string(values.type):
        positive = task.use_case.label(label_of(task.use_case)).positive
        return Baseline(name, pc.fill_null(pc.equal(values, str(positive)), False).to_numpy().astype(np.float64))
    numbers = floats(values)
    return Baseline(name, np.where(np.isnan(numbers), task.labels.mean(), numbers))


def _answerable(use_case: UseCase) -> list[str]:
    """The columns known when the request is made."""
    fields = [field.name for field in use_case.prediction_source.fields if field.name not in _outcomes(use_case)]
    return list(dict.fromkeys([*use_case.feature_columns(), *fields]))


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """Texts as objects with None, anything else as float64 with NaN."""
    return np.asarray(column.to_pylist(), dtype=object) if pa.types.is_string(column.type) else floats(column)


def _boosting(name: str, task: _Task) -> Baseline:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if len(task.classes) > MOST_CLASSES:
        return Baseline(
            name, None, note=f"{len(task.classes)} classes are more than the {MOST_CLASSES} it is fitted for"
        )
    numbers = task.use_case.label(label_of(task.use_case)).type == "number"
    if not numbers and len(set(task.labels.tolist())) < 2:
        return Baseline(name, None, note="the training rows hold one class only")
    learned, asked = _matrices(task)
    labels = task.labels[-MOST_ROWS:]
    seed = int(task.rng.integers(2**31))
    if numbers:
        return Baseline(name, HistGradientBoostingRegressor(random_state=seed).fit(learned, labels).predict(asked))
    model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed).fit(learned, labels)
    scores = np.asarray(model.predict_proba(asked), dtype=np.float64)
    if task.categories:
        return Baseline(name, scores, tuple(str(value) for value in model.classes_))
    return Baseline(name, scores[:, 1])


def _matrices(task: _Task) -> tuple[Floats, Floats]:
    """float64[n, d] of the feature columns of the training rows and of the gate's; texts as their place among the known."""
    learned, asked = [], []
    train = task.train.slice(max(0, task.train.num_rows - MOST_ROWS))
    for column in task.use_case.feature_columns():
        if pa.types.is_string(train[column].type):
            names = sorted(set(train[column].to_pylist()) - {None})
            ours, theirs = (_codes(table[column].to_pylist(), names) for table in (train, task.gate))
            learned.append(np.where(ours < 0, np.nan, ours))
            asked.append(np.where(theirs < 0, np.nan, theirs))
        else:
            learned.append(floats(train[column]))
            asked.append(floats(task.gate[column]))
    return np.column_stack(learned), np.column_stack(asked)


_MAKERS: Final[dict[str, Callable[[str, _Task], Baseline]]] = {
    "random": _random,
    "majority": _constant,
    "mean": _constant,
    "popularity": _popularity,
    "transition": _transition,
    "heuristic": _heuristic,
    "boosting": _boosting,
}
