"""Prediction requests and predictions: what passes between HTTP, the predictor and the request log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from evermodel.columns import TIME
from evermodel.records import canonical_json
from evermodel.scores import Floats
from evermodel.serving.assignment import Assignment
from evermodel.serving.fallback import Fallback
from evermodel.serving.request_log import request_types, served_table
from evermodel.use_case import UseCase

TOP_CLASSES = 10  # classes that a prediction of a category returns and logs, unless the request says how many


@dataclass(frozen=True)
class PredictionRequest:
    """A row to predict, with values checked by `schemas.parse_row`. `unit` is what arms are assigned by."""

    values: Mapping[str, Any]
    prediction_id: str
    at: datetime
    unit: str


@dataclass(frozen=True)
class ClassSelection:
    """For a category: the classes that may be returned (None: every class), and how many, best first (None: all)."""

    classes: tuple[str, ...] | None
    top: int | None

    def rank(self, scores: Floats, names: Sequence[str]) -> list[int]:
        """Indices into `names` (and into `scores`, float64[classes]), best first; ties in their order."""
        wanted = None if self.classes is None else set(self.classes)
        order = np.argsort(-scores, kind="stable")
        return [int(i) for i in order if wanted is None or names[i] in wanted][: self.top]

    def select(self, ranked: Sequence[str]) -> tuple[str, ...]:
        """The ranked classes that may be returned, best first; then the requested classes that have no rank."""
        requested = self.classes or ()
        allowed = [name for name in ranked if self.classes is None or name in requested]
        return tuple([*allowed, *(name for name in requested if name not in allowed)][: self.top])


TOP_TEN = ClassSelection(None, TOP_CLASSES)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one request, with everything that the request log keeps of it."""

    request: PredictionRequest
    score: float | None
    scores: Mapping[str, float | None]
    row: Mapping[str, Any]  # request columns and features, as they were used
    release: str | None
    arm: str | None
    propensity: float | None
    classes: tuple[str, ...] | None = None  # of a category, best first
    class_scores: tuple[float, ...] | None = None
    fallback: bool = False
    reason: str | None = None
    source: str | None = None
    shadow: bool = False
    rank: int | None = None
    bundles: Mapping[str, str] = field(default_factory=dict)


def make_requests(
    use_case: UseCase, rows: Sequence[Mapping[str, Any]], *, request_id: str, at: datetime
) -> list[PredictionRequest]:
    """Checked rows of one HTTP request → prediction requests with the ids `{request_id}:{i}`.

    Rows that are ranked together get one arm. If a row lacks the ranking's group column, the group is the request id.
    """
    group = use_case.predict.group
    requests = []
    for i, row in enumerate(rows):
        values = dict(row)
        if group is not None and values.get(group) is None and request_types(use_case)[group] == pa.string():
            values[group] = request_id
        requests.append(PredictionRequest(values, f"{request_id}:{i}", at, find_unit(use_case, values)))
    return requests


def find_unit(use_case: UseCase, values: Mapping[str, Any]) -> str:
    """What arms are assigned by: the first entity that isn't the ranked item, such as the user."""
    keys = [entity.key for entity in use_case.entities if entity.key in values and entity.key != use_case.predict.item]
    return str(values[keys[0]]) if keys else ""


def request_rows(use_case: UseCase, requests: Sequence[PredictionRequest], *, constant: Mapping[str, Any]) -> pa.Table:
    """The requests as a table of the prediction source's known fields and constants, with `event_time`.

    `constant`: field → the value that serving fixes (`serve_as`); it replaces the request's value. row_id is null,
    because the event isn't in the event log yet.
    """
    columns: dict[str, Any] = {
        "row_id": pa.nulls(len(requests), pa.int64()),
        "event_time": pa.array([request.at for request in requests], TIME),
    }
    for name, kind in request_types(use_case).items():
        values = [constant.get(name, request.values.get(name)) for request in requests]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def fall_back(
    fallback: Fallback,
    requests: Sequence[PredictionRequest],
    selection: ClassSelection,
    *,
    reason: str,
    rows: Sequence[Mapping[str, Any]] | None = None,
    assigned: Sequence[Assignment] | None = None,
) -> list[Prediction]:
    """Flagged predictions without a model: the last known score, else the heuristic, else the constant."""
    predictions = []
    for i, request in enumerate(requests):
        row = rows[i] if rows else request.values
        fallback_score = fallback.find(row)
        assignment = assigned[i] if assigned else None
        classes = selection.select(fallback_score.classes or ()) if fallback.is_category else None
        predictions.append(
            Prediction(
                request=request,
                score=None if fallback.is_category else fallback_score.score,
                scores=fallback_score.scores,
                classes=classes,
                row=row,
                release=None,
                arm=assignment.arm if assignment else None,
                propensity=assignment.propensity if assignment else None,
                fallback=True,
                reason=reason,
                source=fallback_score.source,
            )
        )
    return predictions


def rank_predictions(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Best first, each with its `rank` from 1. Ties keep their order; predictions without a score come last."""
    order = sorted(predictions, key=lambda prediction: math.inf if prediction.score is None else -prediction.score)
    return [replace(prediction, rank=rank) for rank, prediction in enumerate(order, start=1)]


def log_rows(use_case: UseCase, predictions: Sequence[Prediction]) -> pa.Table:
    """The predictions as rows of the request log."""
    return served_table(use_case, [_log_row(prediction) for prediction in predictions])


def _log_row(prediction: Prediction) -> dict[str, Any]:
    scores = {f"score:{name}": value for name, value in prediction.scores.items()}
    return {
        **prediction.row,
        **scores,
        "event_time": prediction.request.at,
        "score": prediction.score,
        "classes": list(prediction.classes[:TOP_CLASSES]) if prediction.classes else None,
        "release": prediction.release,
        "arm": prediction.arm,
        "propensity": prediction.propensity,
        "fallback": prediction.fallback,
        "fallback_reason": prediction.reason,
        "fallback_source": prediction.source,
        "shadow": prediction.shadow,
        "prediction_id": prediction.request.prediction_id,
        "rank": prediction.rank,
        "bundles": canonical_json(dict(prediction.bundles)),
    }
