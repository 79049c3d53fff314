"""What a model could know that it won't know when it answers: a report, with the column that knows it.

Four questions. Does a feature know the label: by its definition (it reads the label before it is known), by its values
(alone it tells the label on rows that it wasn't fitted on), or by its gaps? Were statistics fitted beyond the training
part? Are rows of one request or one entity on both sides of the split? Is a row there twice?

A finding of level `leak` makes the model's figures untrue. A `note` is a fact to know, such as customers who come back
after the split: usual in production, and wrong only where the model is meant for new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from evermodel.data.tables import TIME, one_array
from evermodel.errors import DataError, LeakageError, nearest
from evermodel.records import Artifact
from evermodel.use_case import (
    ColumnFeature,
    CrossFeature,
    CustomFeature,
    Feature,
    Label,
    LagFeature,
    UseCase,
    WindowFeature,
    feature_columns,
    format_duration,
)

Kind = Literal["feature_knows_label", "statistic_beyond_training", "entity_across_split", "duplicate_rows"]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
SUSPICIOUS = 0.98  # a single feature that separates the classes, or orders the values, better than this knows them
MINIMUM = 20  # rows of each side (and of each class) below which nothing is said about values


class Finding(Artifact):
    """One leak, or one thing to know."""

    kind: Kind
    level: Literal["leak", "note"]
    column: str | None
    reason: str
    value: float | None = None
    bound: float | None = None


def leakage_report(
    use_case: UseCase,
    rows: pa.Table,
    *,
    train: Mask,
    label: str,
    fitted: Mapping[str, tuple[float, float]] | None = None,
) -> list[Finding]:
    """Findings about `rows` (the rows table), of which `train` (bool[n]) were trained on and the others are judged on.

    `fitted`: column → (mean, scale) as the model's transforms hold them, to be compared with the training part's own.
    """
    names = [item.name for item in use_case.labels]
    if label not in names:
        raise DataError(f"{use_case.name} has no label {label!r}; {nearest(label, names)}")
    if len(train) != rows.num_rows:
        raise DataError(f"train has {len(train)} entries for {rows.num_rows} rows")
    train = np.asarray(train, dtype=bool)
    return [
        *declared_leaks(use_case),
        *_telling_features(use_case, rows, train, label),
        *_statistics(rows, train, fitted or {}),
        *_entities(use_case, rows, train),
        *_duplicates(rows, train),
    ]


def refuse(findings: Iterable[Finding]) -> None:
    """LeakageError with every leak's reason, if there is one."""
    if leaks := [finding.reason for finding in findings if finding.level == "leak"]:
        raise LeakageError("; ".join(leaks))


# by definition ------------------------------------------------------------------------------------------------------


def declared_leaks(use_case: UseCase) -> list[Finding]:
    """Features that, as the use-case file defines them, read an outcome before it is known. Needs no rows."""
    found: dict[str, Finding] = {}
    for outcome in use_case.labels:  # a feature must not read the outcome of any objective too early
        for feature in use_case.features:
            if reason := _reads_early(use_case, feature, outcome):
                for column in feature_columns(feature):
                    found[column] = _knows(column, f"{column} {reason}")
    for feature in use_case.features:
        if isinstance(feature, CrossFeature | CustomFeature) and (of := [name for name in feature.of if name in found]):
            found[feature.name] = _knows(feature.name, f"{feature.name} is made of {of[0]}, which knows the label")
    return list(found.values())


def _knows(column: str, reason: str, value: float | None = None) -> Finding:
    bound = None if value is None else SUSPICIOUS
    return Finding(kind="feature_knows_label", level="leak", column=column, reason=reason, value=value, bound=bound)


def _reads_early(use_case: UseCase, feature: Feature, label: Label) -> str | None:
    """What is wrong with a feature that reads the label's column. Events of a natural label have times of their own."""
    if label.kind != "column":
        return None
    outcome = label.field or label.name
    if isinstance(feature, ColumnFeature):
        return f"is the label {label.name} itself" if (feature.field or feature.name) == outcome else None
    if not isinstance(feature, WindowFeature | LagFeature) or feature.source != use_case.predict.source:
        return None
    where = feature.where if isinstance(feature, WindowFeature) else {}
    if outcome != feature.field and outcome not in where:
        return None
    if feature.delay >= label.delay:
        return None
    return (
        f"reads {outcome} {format_duration(feature.delay)} after the event, and it is known "
        f"{format_duration(label.delay)} after: set delay: {format_duration(label.delay)}"
    )


# by value -----------------------------------------------------------------------------------------------------------


def _telling_features(use_case: UseCase, rows: pa.Table, train: Mask, label: str) -> list[Finding]:
    """Features that alone tell the label on the rows that were not trained on."""
    outcome = one_array(rows.column(f"label:{label}"))
    known = _flags(outcome.is_valid())
    judged = known & ~train
    if judged.sum() < MINIMUM or (known & train).sum() < MINIMUM:
        return []
    columns = [name for name in use_case.feature_columns() if name in rows.column_names]
    found = []
    for name in columns:
        column = one_array(rows.column(name))
        score = _telling(column, outcome, known & train, judged)
        if score is not None and score >= SUSPICIOUS:
            found.append(_knows(name, f"{name} alone tells {label} with {score:.3f} on rows not trained on", score))
        elif (gaps := _telling(column.is_null(), outcome, known & train, judged)) is not None and gaps >= SUSPICIOUS:
            found.append(_knows(name, f"whether {name} is missing tells {label} with {gaps:.3f}", gaps))
    return found


def _telling(column: pa.Array, outcome: pa.Array, train: Mask, judged: Mask) -> float | None:
    """How well one column tells the outcome, 0.5 or less to 1; None where that can't be said.

    Two classes: area under the ROC curve of the column, or of each category's mean in the training rows. A number:
    |Spearman's rank correlation| of the same. Classes: share of right answers of each category's commonest class,
    where the commonest class of all is right clearly less often.
    """
    if pa.types.is_string(outcome.type):
        return _telling_class(column, outcome, train, judged)
    target = np.asarray(outcome.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    if pa.types.is_string(column.type):
        codes = _codes(column)
        totals = np.bincount(codes[train], weights=target[train], minlength=codes.max() + 1)
        counts = np.bincount(codes[train], minlength=codes.max() + 1)
        prior = target[train].mean()
        values = ((totals + prior) / (counts + 1))[codes]
    else:
        values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    judged = judged & ~np.isnan(values)
    values, target = values[judged], target[judged]
    if set(np.unique(target)) <= {0.0, 1.0}:
        positives = int(target.sum())
        if min(positives, len(target) - positives) < MINIMUM:
            return None
        area = auc(values, target)
        return max(area, 1 - area)
    if len(target) < MINIMUM or np.ptp(values) == 0 or np.ptp(target) == 0:
        return None
    return float(abs(np.corrcoef(rankdata(values), rankdata(target))[0, 1]))


def auc(scores: Floats, positive: Floats) -> float:
    """Area under the ROC curve by ranks (Mann–Whitney), ties counted half."""
    ranks = rankdata(scores)
    number = positive.sum()
    return float((ranks[positive > 0].sum() - number * (number + 1) / 2) / (number * (len(positive) - number)))


def _telling_class(column: pa.Array, outcome: pa.Array, train: Mask, judged: Mask) -> float | None:
    target = _codes(outcome)
    codes = _codes(column)
    if len(np.unique(codes)) > len(codes) / 4 or judged.sum() < MINIMUM:
        return None  # nearly a value of its own for each row: nothing to learn for the rows to come
    width = int(target.max()) + 1
    pairs, counts = np.unique(codes[train] * width + target[train], return_counts=True)
    common = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
    order = np.argsort(counts, kind="stable")  # the commonest is written last, and stays
    common[pairs[order] // width] = pairs[order] % width
    right = float(np.mean(common[codes[judged]] == target[judged]))
    base = float(np.mean(np.bincount(target[train]).argmax() == target[judged]))
    return right if right - base > (1 - base) / 2 else None


def _codes(column: pa.Array) -> npt.NDArray[np.int64]:
    """A number for each value, null being one too."""
    indices = column.dictionary_encode().indices
    return np.asarray(indices.fill_null(pc.max(indices).as_py() + 1 if len(indices) > indices.null_count else 0))


def _flags(array: pa.Array) -> Mask:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=bool)


# the split ----------------------------------------------------------------------------------------------------------


def _statistics(rows: pa.Table, train: Mask, fitted: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Means and standard deviations that are those of all rows (a leak), or anyhow not the training part's (a note).

    The note is usual after stateful training, whose transforms may stay as an earlier turn fitted them.
    """
    found = []
    for name, statistics in fitted.items():
        if name not in rows.column_names:
            raise DataError(f"fitted: no column {name!r}; {nearest(name, rows.column_names)}")
        values = np.asarray(rows.column(name).cast(pa.float64()).to_numpy(), dtype=np.float64)
        own, every = _moments(values[train]), _moments(values)
        for word, value, ours, all_rows in zip(("mean", "scale"), statistics, own, every, strict=True):
            if ours is None or all_rows is None or _same(value, ours, own[1]) or (word == "scale" and ours == 0):
                continue
            leak = _same(value, all_rows, own[1])
            reason = f"the {word} of {name} is {value:.6g}" + (", that of all rows" if leak else "")
            found.append(
                Finding(
                    kind="statistic_beyond_training",
                    level="leak" if leak else "note",
                    column=name,
                    reason=f"{reason}; the training part's is {ours:.6g}",
                    value=value,
                    bound=ours,
                )
            )
    return found


def _moments(values: Floats) -> tuple[float, float] | tuple[None, None]:
    known = values[~np.isnan(values)]
    return (float(known.mean()), float(known.std())) if len(known) else (None, None)


def _same(one: float, other: float, spread: float | None) -> bool:
    return abs(one - other) <= 1e-6 * max(abs(other), spread or 0.0, 1e-12)


def _entities(use_case: UseCase, rows: pa.Table, train: Mask) -> list[Finding]:
    """Requests torn apart by the split (a leak), entities met on both sides (a note)."""
    keys: dict[str, Literal["leak", "note"]] = {entity.key: "note" for entity in use_case.entities}
    if use_case.predict.group:
        keys[use_case.predict.group] = "leak"
    found = []
    for name, level in keys.items():
        if name not in rows.column_names or name in use_case.prediction_source.constants:
            continue
        codes = _codes(one_array(rows.column(name)))
        present = _flags(one_array(rows.column(name)).is_valid())
        both = np.intersect1d(codes[train & present], codes[~train & present])
        if len(both):
            share = float(np.isin(codes[~train & present], both).mean())
            reason = f"{len(both)} values of {name} are on both sides of the split, in {share:.0%} of the judged rows"
            found.append(
                Finding(kind="entity_across_split", level=level, column=name, reason=reason, value=share, bound=0)
            )
    return found


def _duplicates(rows: pa.Table, train: Mask) -> list[Finding]:
    """Rows that are the same in everything, their time too, but for their number."""
    names = [name for name in rows.column_names if name not in ("row_id", "ingest_seq", "created_time")]
    if not names or not rows.num_rows:
        return []
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in names:
        column = one_array(rows.column(name))
        part = _codes(column.cast(pa.int64()) if column.type == TIME else column)
        codes = np.unique(codes * (int(part.max()) + 1) + part, return_inverse=True)[1]
    counts = np.bincount(codes)
    repeats = int((counts - 1).sum())
    if not repeats:
        return []
    crossing = int(np.isin(codes[~train], codes[train]).sum())
    level: Literal["leak", "note"] = "leak" if crossing else "note"
    reason = (
        f"{repeats} of {rows.num_rows} rows repeat another in every column; {crossing} were trained on and judged on"
    )
    return [
        Finding(kind="duplicate_rows", level=level, column=None, reason=reason, value=repeats / rows.num_rows, bound=0)
    ]
