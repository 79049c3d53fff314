"""Behaviour tests: change a column of the rows, score again, and compare.

- invariance: the score must not move if `feature` is set to `set` (or, without it, shuffled over the rows).
- direction: if `add` is added (or `set` is set), at most a share `tolerance` of the rows may move against `expect`.
- perturbation: under noise of `noise` standard deviations the score moves by at most `tolerance`, on average.
- custom: a function by import path that returns (passed, reason).

A move is the mean absolute one; for class scores it is the total variation ½ Σ|Δ|. After Ribeiro et al. 2020, "Beyond
accuracy: behavioral testing of NLP models with CheckList". Crosses and custom features of a changed column follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel import plugins
from evermodel.columns import put_column
from evermodel.errors import InputError
from evermodel.features.row_features import row_features
from evermodel.records import Check
from evermodel.scores import Scores
from evermodel.use_case import BehaviourTest, ColumnFeature, CrossFeature, CustomFeature, UseCase

ScoreRows = Callable[[pa.Table], Scores]
MOST_ROWS: Final = 2000  # a test scores at most this many rows


def run_tests(use_case: UseCase, score: ScoreRows, rows: pa.Table, *, rng: np.random.Generator) -> tuple[Check, ...]:
    """One check for each test, on at most MOST_ROWS of the rows. InputError if a test lacks what its kind needs."""
    if not use_case.behaviour:
        return ()
    if rows.num_rows > MOST_ROWS:
        rows = rows.take(np.sort(rng.choice(rows.num_rows, MOST_ROWS, replace=False)))
    before = score(rows) if rows.num_rows else None
    return tuple(_run_test(use_case, test, score, rows, before, rng) for test in use_case.behaviour)


def _run_test(
    use_case: UseCase,
    test: BehaviourTest,
    score: ScoreRows,
    rows: pa.Table,
    before: Scores | None,
    rng: np.random.Generator,
) -> Check:
    name = f"behaviour:{test.name}"
    if before is None:
        return Check(name=name, level=test.level, passed=True, reason="no rows to test on")
    if test.kind == "custom":
        function = plugins.load(test.call or "", "behaviour")
        passed, reason = function(lambda table: score(table).values, rows)
        return Check(name=name, level=test.level, passed=bool(passed), reason=str(reason))
    if test.feature is None:
        raise InputError(f"behaviour.{test.name}: a test of kind {test.kind} needs a feature")
    after = score(with_column(use_case, rows, test.feature, _changed_column(test, rows, rng)))
    directed = test.kind == "direction"
    value = _share_against(test, before, after) if directed else _mean_move(before, after)
    reason = f"{_describe(test)} {value:.4g}{' of the rows' if directed else ''}, at most {test.tolerance:g} allowed"
    passed = value <= test.tolerance
    return Check(name=name, level=test.level, passed=passed, reason=reason, value=value, bound=test.tolerance)


def with_column(use_case: UseCase, rows: pa.Table, feature: str, column: pa.Array) -> pa.Table:
    """The rows with a feature's column changed, and with it the crosses and custom features of that column."""
    derived = [other.name for other in use_case.features if isinstance(other, CrossFeature | CustomFeature)]
    changed = put_column(rows, feature, column)
    if not derived:
        return changed
    field = next((f.field for f in use_case.features if isinstance(f, ColumnFeature) and f.name == feature), None)
    recomputed = row_features(use_case, put_column(changed, field, column) if field else changed)
    for name in derived:
        changed = put_column(changed, name, recomputed[name])
    return changed


def _changed_column(test: BehaviourTest, rows: pa.Table, rng: np.random.Generator) -> pa.Array:
    column = rows[test.feature].combine_chunks()
    if test.kind == "perturbation":
        if test.noise is None:
            raise InputError(f"behaviour.{test.name}: a perturbation needs noise")
        spread = pc.stddev(column).as_py() or 0.0
        return pc.add(column.cast(pa.float64()), pa.array(rng.normal(0.0, test.noise * spread, len(column))))
    if test.set is not None:
        return pa.array([test.set] * len(column)).cast(column.type)
    if test.add is not None:
        return pc.add(column.cast(pa.float64()), pa.scalar(test.add))
    if test.kind == "invariance":
        return column.take(pa.array(rng.permutation(len(column))))
    raise InputError(f"behaviour.{test.name}: a test of direction needs add or set")


def _mean_move(before: Scores, after: Scores) -> float:
    moved = np.abs(after.values - before.values)
    return float((moved.sum(axis=1) / 2 if before.is_category else moved).mean())


def _share_against(test: BehaviourTest, before: Scores, after: Scores) -> float:
    """The share of rows whose score moves against `expect` by more than float32 noise."""
    if test.expect is None or before.is_category:
        raise InputError(f"behaviour.{test.name}: a test of direction needs expect, and one score a row")
    rise = after.values - before.values
    wrong = -rise if test.expect == "up" else rise
    return float((wrong > 1e-6).mean())


def _describe(test: BehaviourTest) -> str:
    values: dict[str, Any] = {"set": test.set, "add": test.add}
    change = next((f"{verb} {value!r}" for verb, value in values.items() if value is not None), "shuffled")
    if test.kind == "perturbation":
        return f"{test.feature} with noise of {test.noise:g} standard deviations: the score moves by"
    if test.kind == "direction":
        return f"{test.feature} {change}: the score must go {test.expect}, and goes the other way for"
    return f"{test.feature} {change}: the score must not move, and moves by"
