"""From a question to an answer: the row's features, its arm, a score of each objective, their weighted sum.

No Ray and no HTTP here: a `Predictor` is one use case's models and feature store behind `predict` and `rank`. Features
that need only the row come from the code that training sets come from; windows and lags from the online store, by entity
id. What isn't there in time is answered by the fallback, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.clock import from_micros, micros
from evermodel.errors import FeatureStoreError, ServingError, nearest
from evermodel.features.point_in_time import row_features
from evermodel.records import Release
from evermodel.serving.answers import (
    ClassSelection,
    Prediction,
    PredictionRequest,
    fall_back,
    questions_of,
    ranked,
    request_rows,
)
from evermodel.serving.assignment import Assignment, assign
from evermodel.serving.fallback import Fallback, FallbackScore
from evermodel.serving.request_log import TIME, feature_types
from evermodel.serving.schemas import example_row, parse_row, ranks_classes, row_model
from evermodel.use_case import ColumnFeature, LagFeature, UseCase, WindowFeature, feature_columns

Floats = NDArray[np.float64]
CHAMPION = "champion"
ANY = ClassSelection(None, 10)
MICROS_PER_SECOND = 1e-6


class FeatureReader(Protocol):
    """The online store: values by entity id."""

    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        """One row a key, in order: the key column, the entity's feature columns (null if unknown), `event_time`."""
        ...


class Scorer(Protocol):
    """An open release."""

    @property
    def release(self) -> Release: ...

    @property
    def bundles(self) -> Mapping[str, Any]: ...

    def scores(self, rows: pa.Table) -> Mapping[str, Floats]:
        """objective → float64[n], of a category float64[n, classes]."""
        ...


@dataclass(frozen=True)
class Arm:
    """A release in an experiment. A shadow arm scores every row and answers none."""

    name: str
    scorer: Scorer
    weights: Mapping[str, float]
    share: float
    shadow: bool = False


class GivenFeatures:
    """A feature reader over values that are already here: {entity: {key: {column: value}}}. For a file-sized store."""

    def __init__(self, use_case: UseCase, known: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> None:
        self._use_case, self._known = use_case, known

    def read(self, entity: str, keys: Sequence[Any], *, timeout_s: float) -> pa.Table:
        known = self._known.get(entity, {})
        types = feature_types(self._use_case)
        columns = {self._use_case.entity(entity).key: pa.array(list(keys))}
        for name in stored_columns(self._use_case)[entity]:
            columns[name] = pa.array([known.get(key, {}).get(name) for key in keys], types[name])
        columns["event_time"] = pa.array([known.get(key, {}).get("event_time") for key in keys], TIME)
        return pa.table(columns)


class Predictor:
    """One use case's live models. Thread-safe; immutable but for what the fallback remembers."""

    def __init__(
        self,
        use_case: UseCase,
        release: Scorer,
        features: FeatureReader,
        *,
        weights: Mapping[str, float] | None = None,
        arms: Sequence[Arm] = (),
        fallback: Fallback | None = None,
        salt: str = "",
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """`weights`: of the objectives, None: the release's own. `arms`: beside `release`, which keeps the share they leave.

        `pool`: the threads that a slow store or model may block. ServingError where weights or shares make no sense.
        """
        self.use_case, self.fallback = use_case, fallback or Fallback(use_case)
        rest = 1.0 - sum(arm.share for arm in arms if not arm.shadow)
        champion = Arm(CHAMPION, release, release.release.weights if weights is None else weights, rest)
        self._arms = {arm.name: arm for arm in (champion, *arms) if not arm.shadow}
        self._shadows = tuple(arm for arm in arms if arm.shadow)
        self._shares = {arm.name: arm.share for arm in self._arms.values()}
        self._features, self._salt = features, f"{use_case.name}/{salt}"
        self._pool = pool or ThreadPoolExecutor(4, thread_name_prefix="predictor")
        self._stored = stored_columns(use_case)
        self._constant = served_as(use_case)
        self._row = row_model(use_case)
        _check(use_case, (champion, *arms))

    def predict(self, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> list[Prediction]:
        """Answer raw rows, in order: `questions` and `answer` in one. ServingError where a row is wrong."""
        return self.answer(self.questions(rows, now=now))

    def rank(
        self, context: Mapping[str, Any], candidates: Sequence[Any] | None, *, now: datetime, k: int | None = None
    ) -> list[Prediction]:
        """The candidates best first, ties in their order: rows that complete `context`, each with its `rank` from 1.

        Of a category: one answer, with `classes` ordered, among `candidates` (None: all classes).
        """
        if ranks_classes(self.use_case):
            choice = ClassSelection(None if candidates is None else tuple(candidates), k)
            return self.answer(self.questions([context], now=now), choice)[:1]
        asked = self.questions([{**context, **candidate} for candidate in candidates or ()], now=now)
        return ranked(self.answer(asked)[: len(asked)])[:k]

    def questions(self, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> list[PredictionRequest]:
        """Raw rows → checked questions with new prediction ids; ServingError (code, field, reason) at the first wrong one."""
        request = uuid4().hex
        checked = [parse_row(self.use_case, self._row, row, where=f"rows[{i}]") for i, row in enumerate(rows)]
        return questions_of(self.use_case, checked, request_id=request, at=now)

    def answer(self, questions: Sequence[PredictionRequest], choice: ClassSelection = ANY) -> list[Prediction]:
        """Answer every question, in order, within the use case's deadline; shadow arms' answers come after them.

        `choice` matters where a category is predicted. What can't be answered in time is answered by the fallback.
        """
        end = time.monotonic() + self.use_case.serving.deadline * MICROS_PER_SECOND
        assigned = [assign(question.unit, self._shares, salt=self._salt) for question in questions]
        rows = request_rows(self.use_case, questions, constant=self._constant)
        try:
            rows = row_features(self.use_case, self._with_stored(rows, questions, end))
        except Late:
            return self._fall_back(questions, choice, assigned, rows, "feature_store_timeout")
        except FeatureStoreError:
            return self._fall_back(questions, choice, assigned, rows, "feature_store_error")
        except Exception:  # a custom transform is foreign code: its failure is an answer's, not the server's
            return self._fall_back(questions, choice, assigned, rows, "feature_error")
        answers: dict[int, Prediction] = {}
        for name, arm in self._arms.items():
            index = [i for i, assignment in enumerate(assigned) if assignment.arm == name]
            if index:
                mine, given = [questions[i] for i in index], [assigned[i] for i in index]
                found = self._score(arm, mine, given, rows.take(pa.array(index)), end, choice)
                answers.update(zip(index, found, strict=True))
        shadows = [answer for arm in self._shadows for answer in self._shadow(arm, questions, rows, end)]
        return [answers[i] for i in range(len(questions))] + shadows

    def scorers(self) -> dict[str, Scorer]:
        """Release id → the open release, of every arm."""
        return {arm.scorer.release.id: arm.scorer for arm in (*self._arms.values(), *self._shadows)}

    def smoke(self, *, now: datetime) -> None:
        """Score an example row with every arm, features unknown; ServingError unless each score is a finite number."""
        question = PredictionRequest(example_values(self.use_case), "smoke", now, "smoke")
        rows = request_rows(self.use_case, [question], constant=self._constant)
        rows = row_features(self.use_case, _unknown(rows, self.use_case, self._stored))
        for arm in (*self._arms.values(), *self._shadows):
            for objective, values in arm.scorer.scores(rows).items():
                if len(values) != 1 or not np.isfinite(values).all():
                    raise ServingError("bad_model", f"{arm.name}: {objective} answers {values!r} to the smoke request")

    def _with_stored(self, rows: pa.Table, questions: Sequence[PredictionRequest], end: float) -> pa.Table:
        """Add window and lag columns by entity id. What is older than the TTL is unknown; a new entity has had no events."""
        timeout = min(self.use_case.serving.feature_timeout * MICROS_PER_SECOND, end - time.monotonic())
        late = time.monotonic() + timeout
        asked = {entity: rows[self.use_case.entity(entity).key].to_pylist() for entity in self._stored}
        waiting = {
            entity: self._pool.submit(self._features.read, entity, keys, timeout_s=timeout)
            for entity, keys in asked.items()
        }
        types = feature_types(self.use_case)
        try:
            for entity, future in waiting.items():
                found = future.result(max(late - time.monotonic(), 0.0))
                known, fresh = found["event_time"].combine_chunks().is_valid(), self._fresh(found, questions)
                all_known, all_fresh = known.true_count == len(known), fresh.true_count == len(fresh)
                for name, nothing in self._stored[entity].items():
                    column = found[name].combine_chunks()
                    if column.type != types[name]:
                        column = column.cast(types[name])
                    if not all_fresh:
                        column = pc.if_else(fresh, column, pa.scalar(None, types[name]))
                    if not all_known:
                        column = pc.if_else(known, column, pa.scalar(nothing, types[name]))
                    rows = rows.append_column(name, column)
        except (Late, FeatureStoreError):
            raise
        except Exception as error:  # a store's own exceptions are foreign: the answer is the same
            raise FeatureStoreError(f"the online store failed: {type(error).__name__}") from error
        finally:
            for future in waiting.values():
                future.cancel()
        return rows

    def _fresh(self, found: pa.Table, questions: Sequence[PredictionRequest]) -> pa.Array:
        ttl = self.use_case.serving.ttl
        if ttl is None:
            return pa.array([True] * len(questions))
        oldest = pa.array([from_micros(micros(question.at) - ttl) for question in questions], TIME)
        return pc.fill_null(pc.greater_equal(found["event_time"].combine_chunks().cast(TIME), oldest), False)

    def _score(
        self,
        arm: Arm,
        questions: Sequence[PredictionRequest],
        assigned: Sequence[Assignment],
        rows: pa.Table,
        end: float,
        choice: ClassSelection,
    ) -> list[Prediction]:
        try:
            scores = self._pool.submit(arm.scorer.scores, rows).result(max(end - time.monotonic(), 0.0))
            scores = {name: np.asarray(values, np.float64) for name, values in scores.items()}
            if not all(np.isfinite(values).all() for values in scores.values()):
                return self._fall_back(questions, choice, assigned, rows, "model_not_finite")
        except Late:
            return self._fall_back(questions, choice, assigned, rows, "model_timeout")
        except Exception:  # whatever a model dies of, the question still gets an answer, and the flag is in the log
            return self._fall_back(questions, choice, assigned, rows, "model_error")
        answers = _answers(arm, questions, assigned, rows, scores, choice)
        for answer in answers:
            self.fallback.remember(answer.row, FallbackScore(answer.score, answer.scores, answer.classes))
        return answers

    def _shadow(self, arm: Arm, questions: Sequence[PredictionRequest], rows: pa.Table, end: float) -> list[Prediction]:
        """The shadow's answers, for the log alone: its failures are its own."""
        try:
            scores = self._pool.submit(arm.scorer.scores, rows).result(max(end - time.monotonic(), 0.0))
        except Exception:  # a shadow never harms an answer
            return []
        given = [Assignment(arm.name, 1.0)] * len(questions)
        asked = [replace(question, prediction_id=f"{question.prediction_id}/{arm.name}") for question in questions]
        return [replace(answer, shadow=True) for answer in _answers(arm, asked, given, rows, scores, ANY)]

    def _fall_back(
        self,
        questions: Sequence[PredictionRequest],
        choice: ClassSelection,
        assigned: Sequence[Assignment],
        rows: pa.Table,
        reason: str,
    ) -> list[Prediction]:
        return fall_back(self.fallback, questions, choice, reason=reason, rows=rows.to_pylist(), assigned=assigned)


def stored_columns(use_case: UseCase) -> dict[str, dict[str, float | None]]:
    """entity → its window and lag columns in the online store, each with its value of an entity that had no events."""
    stored: dict[str, dict[str, float | None]] = {}
    for feature in use_case.features:
        if isinstance(feature, (WindowFeature, LagFeature)):
            counts = isinstance(feature, WindowFeature) and feature.aggregate in ("count", "sum", "distinct")
            columns = stored.setdefault(feature.entity, {})
            columns.update(dict.fromkeys(feature_columns(feature), 0.0 if counts else None))
    return stored


def example_values(use_case: UseCase) -> dict[str, Any]:
    """A valid row's values, for the smoke request and health checks."""
    return {**example_row(use_case), **use_case.prediction_source.constants}


def combine(scores: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Σ weight × score; float64[n], of categories float64[n, classes]."""
    total = sum(weights.get(name, 0.0) * values for name, values in scores.items())
    return np.asarray(total, np.float64)


def _check(use_case: UseCase, arms: Sequence[Arm]) -> None:
    """ServingError where a weight names no objective, or shares are no shares."""
    names = [objective.name for objective in use_case.objectives]
    for arm in arms:
        for name, weight in arm.weights.items():
            where = f"{arm.name}.weights.{name}"
            if name not in names:
                raise ServingError("bad_weights", f"no objective {name!r}; {nearest(name, names)}", field=where)
            if not np.isfinite(weight):
                raise ServingError("bad_weights", f"weight {weight} is no number", field=where)
        if not arm.shadow and not 0.0 <= arm.share <= 1.0:
            raise ServingError("bad_arms", f"a share of {arm.share} is not between 0 and 1", field=f"arms.{arm.name}")
    if len({arm.name for arm in arms}) != len(arms):
        raise ServingError("bad_arms", "two arms have one name", field="arms")


def _answers(
    arm: Arm,
    questions: Sequence[PredictionRequest],
    assigned: Sequence[Assignment],
    rows: pa.Table,
    scores: Mapping[str, Floats],
    choice: ClassSelection,
) -> list[Prediction]:
    total = combine(scores, arm.weights)
    names = _classes(arm) if total.ndim == 2 else None
    digests = {bundle.objective: bundle.digest for bundle in arm.scorer.release.bundles}
    answers = []
    for i, (question, given, row) in enumerate(zip(questions, assigned, rows.to_pylist(), strict=True)):
        best = {name: float(values[i].max() if values.ndim == 2 else values[i]) for name, values in scores.items()}
        order = choice.best(total[i], names) if names else []
        answers.append(
            Prediction(
                question=question,
                score=None if names else float(total[i]),
                scores=best,
                classes=tuple(names[c] for c in order) if names else None,
                class_scores=tuple(float(total[i, c]) for c in order) if names else None,
                row=row,
                release=arm.scorer.release.id,
                arm=given.arm,
                propensity=given.propensity,
                bundles=digests,
            )
        )
    return answers


def _classes(arm: Arm) -> tuple[str, ...]:
    """The classes of a category release: every objective must have the same, or their sum has no meaning."""
    found = {tuple(bundle.classes) for bundle in arm.scorer.bundles.values()}
    if len(found) != 1:
        raise ServingError("bad_model", f"{arm.name}: the objectives' classes differ")
    return next(iter(found))


def _unknown(rows: pa.Table, use_case: UseCase, stored: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    types = feature_types(use_case)
    for name in (name for names in stored.values() for name in names):
        rows = rows.append_column(name, pa.nulls(rows.num_rows, types[name]))
    return rows


def served_as(use_case: UseCase) -> dict[str, Any]:
    """Field → what serving always says of it, such as position 1: its bias was learned, and isn't used."""
    found = {}
    for feature in use_case.features:
        if isinstance(feature, ColumnFeature) and feature.serve_as is not None:
            found[feature.field or feature.name] = feature.serve_as
    return found
