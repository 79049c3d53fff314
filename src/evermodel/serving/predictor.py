"""From a request to a prediction: the row's features, its arm, a score for each objective, their weighted sum.

A `Predictor` is one use case's models and feature store behind `predict` and `rank`, without Ray and without HTTP.
Features of the row alone come from the code that makes training sets; windows and lags come from the online store, by
entity id. The fallback answers, flagged, if features or scores are late or fail.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from evermodel.clock import MICROS_PER_SECOND
from evermodel.errors import FeatureStoreError, ServingError, nearest
from evermodel.features.as_served import served_constants
from evermodel.features.row_features import row_features
from evermodel.scores import Scores, ServableRelease, combine
from evermodel.serving.assignment import Assignment, assign
from evermodel.serving.fallback import Fallback, FallbackScore
from evermodel.serving.online_features import FeatureReader, OnlineFeatures
from evermodel.serving.predictions import (
    TOP_TEN,
    ClassSelection,
    Prediction,
    PredictionRequest,
    fall_back,
    make_requests,
    rank_predictions,
    request_rows,
)
from evermodel.serving.schemas import example_row, parse_row, ranks_classes, row_model
from evermodel.use_case import UseCase

CHAMPION = "champion"


@dataclass(frozen=True)
class Arm:
    """A release in an experiment. A shadow arm scores every row, and its scores are only logged."""

    name: str
    model: ServableRelease
    weights: Mapping[str, float]
    share: float
    shadow: bool = False


class Predictor:
    """One use case's models. Thread-safe; immutable except for what the fallback remembers."""

    def __init__(
        self,
        use_case: UseCase,
        model: ServableRelease,
        features: FeatureReader,
        *,
        weights: Mapping[str, float] | None = None,
        arms: Sequence[Arm] = (),
        fallback: Fallback | None = None,
        salt: str = "",
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """`weights`: of the objectives; None: the release's own. `arms`: beside `model`, which keeps the remaining share.

        `pool`: the threads that a slow store or model may block. ServingError if weights or shares are invalid.
        """
        self.use_case, self.fallback = use_case, fallback or Fallback(use_case)
        remaining = 1.0 - sum(arm.share for arm in arms if not arm.shadow)
        champion = Arm(CHAMPION, model, model.release.weights if weights is None else weights, remaining)
        self._arms = {arm.name: arm for arm in (champion, *arms) if not arm.shadow}
        self._shadows = tuple(arm for arm in arms if arm.shadow)
        self._shares = {arm.name: arm.share for arm in self._arms.values()}
        self._salt = f"{use_case.name}/{salt}"
        self._pool = pool or ThreadPoolExecutor(4, thread_name_prefix="predictor")
        self._features = OnlineFeatures(use_case, features, self._pool)
        self._constant = served_constants(use_case)
        self._row_model = row_model(use_case)
        _check(use_case, (champion, *arms))

    def predict(self, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> list[Prediction]:
        """Predict raw rows, in order: `make_requests` and `answer` in one. ServingError if a row is invalid."""
        return self.answer(self.make_requests(rows, now=now))

    def rank(
        self, context: Mapping[str, Any], candidates: Sequence[Any] | None, *, now: datetime, k: int | None = None
    ) -> list[Prediction]:
        """The candidates best first, ties in their order: rows that complete `context`, each with its `rank` from 1.

        For a category: one prediction, with `classes` in order, restricted to `candidates` (None: all classes).
        """
        if ranks_classes(self.use_case):
            selection = ClassSelection(None if candidates is None else tuple(candidates), k)
            return self.answer(self.make_requests([context], now=now), selection)[:1]
        requests = self.make_requests([{**context, **candidate} for candidate in candidates or ()], now=now)
        return rank_predictions(self.answer(requests)[: len(requests)])[:k]

    def make_requests(self, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> list[PredictionRequest]:
        """Raw rows → checked requests with new prediction ids; ServingError (code, field, reason) at the first invalid row."""
        checked = [parse_row(self.use_case, self._row_model, row, where=f"rows[{i}]") for i, row in enumerate(rows)]
        return make_requests(self.use_case, checked, request_id=uuid4().hex, at=now)

    def answer(self, requests: Sequence[PredictionRequest], selection: ClassSelection = TOP_TEN) -> list[Prediction]:
        """A prediction for every request, in order, within the use case's deadline; then those of the shadow arms.

        `selection` matters only if a category is predicted. The fallback answers what isn't ready in time.
        """
        deadline = time.monotonic() + self.use_case.serving.deadline / MICROS_PER_SECOND
        assigned = [assign(request.unit, self._shares, salt=self._salt) for request in requests]
        rows = request_rows(self.use_case, requests, constant=self._constant)
        try:
            rows = row_features(self.use_case, self._features.add(rows, deadline=deadline))
        except TimeoutError:
            return self._fall_back(requests, selection, assigned, rows, "feature_store_timeout")
        except FeatureStoreError:
            return self._fall_back(requests, selection, assigned, rows, "feature_store_error")
        except Exception:  # a custom transform is the user's code: its failure must not fail the request
            return self._fall_back(requests, selection, assigned, rows, "feature_error")
        predictions: dict[int, Prediction] = {}
        for name, arm in self._arms.items():
            index = [i for i, assignment in enumerate(assigned) if assignment.arm == name]
            if index:
                arm_requests, arm_assigned = [requests[i] for i in index], [assigned[i] for i in index]
                arm_rows = rows.take(pa.array(index))
                arm_predictions = self._score(arm, arm_requests, arm_assigned, arm_rows, deadline, selection)
                predictions.update(zip(index, arm_predictions, strict=True))
        shadows = [shadow for arm in self._shadows for shadow in self._score_shadow(arm, requests, rows, deadline)]
        return [predictions[i] for i in range(len(requests))] + shadows

    def open_releases(self) -> dict[str, ServableRelease]:
        """Release id → the open release, of every arm."""
        return {arm.model.release.id: arm.model for arm in (*self._arms.values(), *self._shadows)}

    def smoke(self, *, now: datetime) -> None:
        """Score an example row with every arm, features unknown; ServingError unless each score is a finite number."""
        request = PredictionRequest(example_values(self.use_case), "smoke", now, "smoke")
        rows = request_rows(self.use_case, [request], constant=self._constant)
        rows = row_features(self.use_case, self._features.add_unknown(rows))
        for arm in (*self._arms.values(), *self._shadows):
            scores = arm.model.scores(rows)
            for objective, part in scores.items():
                if len(part) != 1 or not part.finite.all():
                    raise ServingError("bad_model", f"{arm.name}: {objective} scores the smoke request {part.values!r}")
            combine(scores, arm.weights)

    def _score(
        self,
        arm: Arm,
        requests: Sequence[PredictionRequest],
        assigned: Sequence[Assignment],
        rows: pa.Table,
        deadline: float,
        selection: ClassSelection,
    ) -> list[Prediction]:
        try:
            scores = self._scores_in_time(arm, rows, deadline)
            if not all(part.finite.all() for part in scores.values()):
                return self._fall_back(requests, selection, assigned, rows, "model_not_finite")
            predictions = _make_predictions(arm, requests, assigned, rows, scores, selection)
        except TimeoutError:
            return self._fall_back(requests, selection, assigned, rows, "model_timeout")
        except Exception:  # whatever a model raises, the request gets an answer, and the log keeps the flag
            return self._fall_back(requests, selection, assigned, rows, "model_error")
        for prediction in predictions:
            self.fallback.remember(
                prediction.row, FallbackScore(prediction.score, prediction.scores, prediction.classes)
            )
        return predictions

    def _score_shadow(
        self, arm: Arm, requests: Sequence[PredictionRequest], rows: pa.Table, deadline: float
    ) -> list[Prediction]:
        """The shadow arm's predictions, only for the log; none if it fails."""
        assigned = [Assignment(arm.name, 1.0)] * len(requests)
        copies = [replace(request, prediction_id=f"{request.prediction_id}/{arm.name}") for request in requests]
        try:
            scores = self._scores_in_time(arm, rows, deadline)
            predictions = _make_predictions(arm, copies, assigned, rows, scores, TOP_TEN)
        except Exception:  # a shadow's failure must not reach a client
            return []
        return [replace(prediction, shadow=True) for prediction in predictions]

    def _scores_in_time(self, arm: Arm, rows: pa.Table, deadline: float) -> Mapping[str, Scores]:
        return self._pool.submit(arm.model.scores, rows).result(max(deadline - time.monotonic(), 0.0))

    def _fall_back(
        self,
        requests: Sequence[PredictionRequest],
        selection: ClassSelection,
        assigned: Sequence[Assignment],
        rows: pa.Table,
        reason: str,
    ) -> list[Prediction]:
        return fall_back(self.fallback, requests, selection, reason=reason, rows=rows.to_pylist(), assigned=assigned)


def example_values(use_case: UseCase) -> dict[str, Any]:
    """A valid row's values, for the smoke request and health checks."""
    return {**example_row(use_case), **use_case.prediction_source.constants}


def _check(use_case: UseCase, arms: Sequence[Arm]) -> None:
    """ServingError if a weight names no objective, a share isn't between 0 and 1, or two arms have one name."""
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


def _make_predictions(
    arm: Arm,
    requests: Sequence[PredictionRequest],
    assigned: Sequence[Assignment],
    rows: pa.Table,
    scores: Mapping[str, Scores],
    selection: ClassSelection,
) -> list[Prediction]:
    total = combine(scores, arm.weights)
    best = {name: part.best for name, part in scores.items()}
    digests = dict(arm.model.bundle_digests)
    predictions = []
    for i, (request, assignment, row) in enumerate(zip(requests, assigned, rows.to_pylist(), strict=True)):
        order = selection.rank(total.values[i], total.classes) if total.is_category else []
        predictions.append(
            Prediction(
                request=request,
                score=None if total.is_category else float(total.values[i]),
                scores={name: float(values[i]) for name, values in best.items()},
                classes=tuple(total.classes[c] for c in order) if total.is_category else None,
                class_scores=tuple(float(total.values[i, c]) for c in order) if total.is_category else None,
                row=row,
                release=arm.model.release.id,
                arm=assignment.arm,
                propensity=assignment.propensity,
                bundles=digests,
            )
        )
    return predictions
