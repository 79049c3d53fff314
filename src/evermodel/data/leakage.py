"""Leakage: what a model could learn that is unknown at request time, as a report that names the column.

Four checks. Does a feature know the label: by its definition (it reads the label before it is known), by its values
(it alone predicts the label on rows that weren't trained on), or by its gaps? Were statistics fitted on more than the
training part? Are rows of one request or one entity on both sides of the split? Are rows repeated?

A finding of level `leak` makes the model's figures wrong. A `note` is a fact worth knowing, such as customers on both
sides of the split: usual in production, and a fault only if the model is meant for new customers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy.stats import rankdata

from evermodel.columns import Flags, Floats, as_array, codes_with_null, floats, row_codes, valid_mask
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
SUSPICIOUS = 0.98  # a single feature that separates the classes, or orders the values, better than this knows the label
MINIMUM_ROWS = 20  # rows of each side (and of each class); with fewer there is no finding about values


class Finding(Artifact):
    """One leak, or one fact worth knowing."""

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
    train: Flags,
    label: str,
    fitted: Mapping[str, tuple[float, float]] | None = None,
) -> list[Finding]:
    """Findings about `rows` (the rows table). `train`, bool[n]: the rows trained on; the others are evaluated on.

    `fitted`: column → (mean, scale) of the model's transforms, to compare with those of the training part.
    """
    names = [item.name for item in use_case.labels]
    if label not in names:
        raise DataError(f"{use_case.name} has no label {label!r}; {nearest(label, names)}")
    if len(train) != rows.num_rows:
        raise DataError(f"train has {len(train)} entries for {rows.num_rows} rows")
    train = np.asarray(train, dtype=bool)
    return [
        *declared_leaks(use_case),
        *_predictive_features(use_case, rows, train, label),
        *_statistics(rows, train, fitted or {}),
        *_entities(use_case, rows, train),
        *_duplicates(rows, train),
    ]


def refuse(findings: Iterable[Finding]) -> None:
    """Raises LeakageError with the reason of every leak, if there is one."""
    if leaks := [finding.reason for finding in findings if finding.level == "leak"]:
        raise LeakageError("; ".join(leaks))


# by definition ------------------------------------------------------------------------------------------------------


def declared_leaks(use_case: UseCase) -> list[Finding]:
    """Features that, as the use-case file defines them, read an outcome before it is known. Needs no rows."""
    found: dict[str, Finding] = {}
    for outcome in use_case.labels:  # no feature may read the outcome of any objective too early
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
    """The fault of a feature that reads the label's column too early. A label of kind event has no such column."""
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


def _predictive_features(use_case: UseCase, rows: pa.Table, train: Flags, label: str) -> list[Finding]:
    """Features that alone predict the label on the rows that were not trained on."""
    outcome = as_array(rows.column(f"label:{label}"))
    known = valid_mask(outcome)
    evaluated = known & ~train
    if evaluated.sum() < MINIMUM_ROWS or (known & train).sum() < MINIMUM_ROWS:
        return []
    columns = [name for name in use_case.feature_columns() if name in rows.column_names]
    found = []
    for name in columns:
        column = as_array(rows.column(name))
        score = _predictiveness(column, outcome, known & train, evaluated)
        if score is not None and score >= SUSPICIOUS:
            found.append(_knows(name, f"{name} alone predicts {label} with {score:.3f} on rows not trained on", score))
        elif (
            gaps := _predictiveness(column.is_null(), outcome, known & train, evaluated)
        ) is not None and gaps >= SUSPICIOUS:
            found.append(_knows(name, f"whether {name} is missing predicts {label} with {gaps:.3f}", gaps))
    return found


def _predictiveness(column: pa.Array, outcome: pa.Array, train: Flags, evaluated: Flags) -> float | None:
    """How well one column predicts the outcome, 0.5 or less to 1; None if that can't be computed.

    Two classes: area under the ROC curve of the column, or of each category's mean in the training rows. A number:
    |Spearman's rank correlation| of the same. Classes: the accuracy of each category's most frequent class, if it is
    clearly above the accuracy of the most frequent class of all rows.
    """
    if pa.types.is_string(outcome.type):
        return _class_accuracy(column, outcome, train, evaluated)
    target = floats(outcome)
    if pa.types.is_string(column.type):
        codes = codes_with_null(column)
        totals = np.bincount(codes[train], weights=target[train], minlength=codes.max() + 1)
        counts = np.bincount(codes[train], minlength=codes.max() + 1)
        prior = target[train].mean()
        values = ((totals + prior) / (counts + 1))[codes]
    else:
        values = floats(column)
    evaluated = evaluated & ~np.isnan(values)
    values, target = values[evaluated], target[evaluated]
    if set(np.unique(target)) <= {0.0, 1.0}:
        positives = int(target.sum())
        if min(positives, len(target) - positives) < MINIMUM_ROWS:
            return None
        area = auc(values, target)
        return max(area, 1 - area)
    if len(target) < MINIMUM_ROWS or np.ptp(values) == 0 or np.ptp(target) == 0:
        return None
    return float(abs(np.corrcoef(rankdata(values), rankdata(target))[0, 1]))


def auc(scores: Floats, positive: Floats) -> float:
    """Area under the ROC curve by ranks (Mann–Whitney), ties counted half."""
    ranks = rankdata(scores)
    number = positive.sum()
    return float((ranks[positive > 0].sum() - number * (number + 1) / 2) / (number * (len(positive) - number)))


def _class_accuracy(column: pa.Array, outcome: pa.Array, train: Flags, evaluated: Flags) -> float | None:
    target = codes_with_null(outcome)
    codes = codes_with_null(column)
    if len(np.unique(codes)) > len(codes) / 4 or evaluated.sum() < MINIMUM_ROWS:
        return None  # nearly every row has its own value: nothing to learn for other rows
    width = int(target.max()) + 1
    pairs, counts = np.unique(codes[train] * width + target[train], return_counts=True)
    likeliest = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
    order = np.argsort(counts, kind="stable")  # the most frequent class is written last
    likeliest[pairs[order] // width] = pairs[order] % width
    right = float(np.mean(likeliest[codes[evaluated]] == target[evaluated]))
    base = float(np.mean(np.bincount(target[train]).argmax() == target[evaluated]))
    return right if right - base > (1 - base) / 2 else None


# the split ----------------------------------------------------------------------------------------------------------


def _statistics(rows: pa.Table, train: Flags, fitted: Mapping[str, tuple[float, float]]) -> list[Finding]:
    """Means and standard deviations of all rows (a leak), or otherwise not of the training part (a note).

    The note is usual after stateful training, because its transforms may keep the fit of an earlier training round.
    """
    found = []
    for name, statistics in fitted.items():
        if name not in rows.column_names:
            raise DataError(f"fitted: no column {name!r}; {nearest(name, rows.column_names)}")
        values = floats(rows.column(name))
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


def _entities(use_case: UseCase, rows: pa.Table, train: Flags) -> list[Finding]:
    """Requests that the split divides (a leak), entities on both sides of it (a note)."""
    keys: dict[str, Literal["leak", "note"]] = {entity.key: "note" for entity in use_case.entities}
    if use_case.predict.group:
        keys[use_case.predict.group] = "leak"
    found = []
    for name, level in keys.items():
        if name not in rows.column_names or name in use_case.prediction_source.constants:
            continue
        codes, present = codes_with_null(rows.column(name)), valid_mask(rows.column(name))
        both = np.intersect1d(codes[train & present], codes[~train & present])
        if len(both):
            share = float(np.isin(codes[~train & present], both).mean())
            reason = (
                f"{len(both)} values of {name} are on both sides of the split, in {share:.0%} of the evaluated rows"
            )
            found.append(
                Finding(kind="entity_across_split", level=level, column=name, reason=reason, value=share, bound=0)
            )
    return found


def _duplicates(rows: pa.Table, train: Flags) -> list[Finding]:
    """Rows that are equal in every column, their time too, except their number."""
    names = [name for name in rows.column_names if name not in ("row_id", "ingest_seq", "created_time")]
    if not names or not rows.num_rows:
        return []
    codes = row_codes((rows.column(name) for name in names), rows.num_rows)
    counts = np.bincount(codes)
    repeats = int((counts - 1).sum())
    if not repeats:
        return []
    crossing = int(np.isin(codes[~train], codes[train]).sum())
    level: Literal["leak", "note"] = "leak" if crossing else "note"
    reason = (
        f"{repeats} of {rows.num_rows} rows repeat another in every column; {crossing} were trained on and evaluated on"
    )
    return [
        Finding(kind="duplicate_rows", level=level, column=None, reason=reason, value=repeats / rows.num_rows, bound=0)
    ]
