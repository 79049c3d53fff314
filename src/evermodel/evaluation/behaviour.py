"""What the model does, not how well: change a column of the rows, score again, and compare.

- invariance: the score must not move when `feature` is set to `set` (or, without it, shuffled over the rows).
- direction: when `add` is added (or `set` set), no more than a `tolerance` of the rows may move against `expect`.
- perturbation: under noise of so many standard deviations the score moves by no more than `tolerance`, on average.
- custom: an import path that answers (passed, why).

A move is the mean absolute one; of class scores the total variation ½ Σ|Δ|. After Ribeiro et al. 2020, "Beyond accuracy:
behavioral testing of NLP models with CheckList". Crosses and custom features of a changed column follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel import plugins
from evermodel.errors import InputError
from evermodel.features.point_in_time import row_features
from evermodel.records import Check
from evermodel.use_case import BehaviourTest, ColumnFeature, CrossFeature, CustomFeature, UseCase

Floats = NDArray[np.float64]
Score = Callable[[pa.Table], Floats]
MOST_ROWS: Final = 2000  # a test asks the model about no more rows than this


def run(use_case: UseCase, score: Score, rows: pa.Table, *, rng: np.random.Generator) -> tuple[Check, ...]:
    """One check a test, on at most MOST_ROWS of the rows; InputError where a test lacks what its kind needs."""
    if not use_case.behaviour:
        return ()
    if rows.num_rows > MOST_ROWS:
        rows = rows.take(np.sort(rng.choice(rows.num_rows, MOST_ROWS, replace=False)))
    before = score(rows) if rows.num_rows else None
    return tuple(_test(use_case, test, score, rows, before, rng) for test in use_case.behaviour)


def _test(
    use_case: UseCase,
    test: BehaviourTest,
    score: Score,
    rows: pa.Table,
    before: Floats | None,
    rng: np.random.Generator,
) -> Check:
    name = f"behaviour:{test.name}"
    if before is None:
        return Check(name=name, level=test.level, passed=True, reason="no rows to test on")
    if test.kind == "custom":
        passed, why = plugins.load(test.call or "", "behaviour")(score, rows)
        return Check(name=name, level=test.level, passed=bool(passed), reason=str(why))
    if test.feature is None:
        raise InputError(f"behaviour.{test.name}: a test of kind {test.kind} needs a feature")
    after = score(with_column(use_case, rows, test.feature, _changed(test, rows, rng)))
    directed = test.kind == "direction"
    value = _against(test, before, after) if directed else _move(before, after)
    reason = f"{_sentence(test)} {value:.4g}{' of the rows' if directed else ''}, at most {test.tolerance:g} allowed"
    passed = value <= test.tolerance
    return Check(name=name, level=test.level, passed=passed, reason=reason, value=value, bound=test.tolerance)


def with_column(use_case: UseCase, rows: pa.Table, feature: str, column: pa.Array) -> pa.Table:
    """The rows with a feature's column changed, and the crosses and custom features that are made from it."""
    made = [other.name for other in use_case.features if isinstance(other, CrossFeature | CustomFeature)]
    changed = _put(rows, feature, column)
    if not made:
        return changed
    field = next((f.field for f in use_case.features if isinstance(f, ColumnFeature) and f.name == feature), None)
    again = row_features(use_case, _put(changed, field, column) if field else changed)
    for name in made:
        changed = _put(changed, name, again[name])
    return changed


def _put(rows: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, column)


def _changed(test: BehaviourTest, rows: pa.Table, rng: np.random.Generator) -> pa.Array:
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


def _move(before: Floats, after: Floats) -> float:
    moved = np.abs(after - before)
    return float((moved if moved.ndim == 1 else moved.sum(axis=1) / 2).mean())


def _against(test: BehaviourTest, before: Floats, after: Floats) -> float:
    """The share of rows whose score went against `expect` by more than float32 noise."""
    if test.expect is None or before.ndim != 1:
        raise InputError(f"behaviour.{test.name}: a test of direction needs expect, and one score a row")
    wrong = before - after if test.expect == "up" else after - before
    return float((wrong > 1e-6).mean())


def _sentence(test: BehaviourTest) -> str:
    change: dict[str, Any] = {"set": test.set, "add": test.add}
    done = next((f"{verb} {value!r}" for verb, value in change.items() if value is not None), "shuffled")
    if test.kind == "perturbation":
        return f"{test.feature} with noise of {test.noise:g} standard deviations: the score moves by"
    if test.kind == "direction":
        return f"{test.feature} {done}: the score must go {test.expect}, and goes the other way for"
    return f"{test.feature} {done}: the score must not move, and moves by"
