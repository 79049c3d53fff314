"""Questions and answers: what passes between HTTP, the predictor and the request log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evermodel.records import canonical_json
from evermodel.serving.assignment import Assignment
from evermodel.serving.fallback import Fallback
from evermodel.serving.request_log import TIME, request_types, served_table
from evermodel.use_case import UseCase

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PredictionRequest:
    """A row to answer, with values as `schemas.parse_row` checked them. `unit` is what arms are assigned by."""

    values: Mapping[str, Any]
    prediction_id: str
    at: datetime
    unit: str


@dataclass(frozen=True)
class ClassSelection:
    """Of a category: which classes may be answered (None: every one), and how many, best first (None: all)."""

    classes: tuple[str, ...] | None
    top: int | None

    def best(self, values: Floats, names: Sequence[str]) -> list[int]:
        """Indices into `names` (and `values[classes]`), best first; ties in their order."""
        wanted = None if self.classes is None else set(self.classes)
        order = np.argsort(-values, kind="stable")
        return [int(i) for i in order if wanted is None or names[i] in wanted][: self.top]

    def among(self, known: Sequence[str]) -> tuple[str, ...]:
        """The known classes, best first, that may be answered; then those asked for that nothing is known of."""
        asked = self.classes or ()
        allowed = [name for name in known if self.classes is None or name in asked]
        return tuple([*allowed, *(name for name in asked if name not in allowed)][: self.top])


@dataclass(frozen=True)
class Prediction:
    """What one question was answered with, and all that the request log keeps of it."""

    question: PredictionRequest
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


def questions_of(
    use_case: UseCase, rows: Sequence[Mapping[str, Any]], *, request_id: str, at: datetime
) -> list[PredictionRequest]:
    """Checked rows as questions of one request: ids `{request_id}:{i}`, one arm for rows that are ranked together.

    A ranking's group column that wasn't said is the request.
    """
    group = use_case.predict.group
    questions = []
    for i, row in enumerate(rows):
        values = dict(row)
        if group is not None and values.get(group) is None and request_types(use_case)[group] == pa.string():
            values[group] = request_id
        questions.append(PredictionRequest(values, f"{request_id}:{i}", at, unit_of(use_case, values)))
    return questions


def unit_of(use_case: UseCase, values: Mapping[str, Any]) -> str:
    """What arms are assigned by: the first entity that isn't the ranked item, such as the user."""
    keys = [entity.key for entity in use_case.entities if entity.key in values and entity.key != use_case.predict.item]
    return str(values[keys[0]]) if keys else ""


def request_rows(use_case: UseCase, questions: Sequence[PredictionRequest], *, constant: Mapping[str, Any]) -> pa.Table:
    """The questions as a table of the prediction source's known fields and constants, with `event_time`.

    `constant`: what serving always says (`serve_as`), whatever the question says. row_id is null: no event is there yet.
    """
    columns: dict[str, Any] = {
        "row_id": pa.nulls(len(questions), pa.int64()),
        "event_time": pa.array([question.at for question in questions], TIME),
    }
    for name, kind in request_types(use_case).items():
        values = [constant.get(name, question.values.get(name)) for question in questions]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def fall_back(
    fallback: Fallback,
    questions: Sequence[PredictionRequest],
    choice: ClassSelection,
    *,
    reason: str,
    rows: Sequence[Mapping[str, Any]] | None = None,
    assigned: Sequence[Assignment] | None = None,
) -> list[Prediction]:
    """Flagged answers without a model: last known, else heuristic, else constant."""
    answers = []
    for i, question in enumerate(questions):
        row = rows[i] if rows else question.values
        known = fallback.find(row)
        arm = assigned[i] if assigned else None
        answers.append(
            Prediction(
                question=question,
                score=None if fallback.is_category else known.score,
                scores=known.scores,
                classes=choice.among(known.classes or ()) if fallback.is_category else None,
                row=row,
                release=None,
                arm=arm.arm if arm else None,
                propensity=arm.propensity if arm else None,
                fallback=True,
                reason=reason,
                source=known.source,
            )
        )
    return answers


def ranked(answers: Sequence[Prediction]) -> list[Prediction]:
    """Best first, each with its `rank` from 1; ties stay in the order they came, what has no score comes last."""
    order = sorted(answers, key=lambda answer: -_or_last(answer.score))
    return [replace(answer, rank=place) for place, answer in enumerate(order, start=1)]


def _or_last(score: float | None) -> float:
    return -math.inf if score is None else score


def log_rows(use_case: UseCase, answers: Sequence[Prediction]) -> pa.Table:
    """The answers as the request log keeps them."""
    return served_table(use_case, [_log_row(answer) for answer in answers])


def _log_row(answer: Prediction) -> dict[str, Any]:
    scores = {f"score:{name}": value for name, value in answer.scores.items()}
    return {
        **answer.row,
        **scores,
        "event_time": answer.question.at,
        "score": answer.score,
        "classes": list(answer.classes[:10]) if answer.classes else None,
        "release": answer.release,
        "arm": answer.arm,
        "propensity": answer.propensity,
        "fallback": answer.fallback,
        "fallback_reason": answer.reason,
        "fallback_source": answer.source,
        "shadow": answer.shadow,
        "prediction_id": answer.question.prediction_id,
        "rank": answer.rank,
        "bundles": canonical_json(dict(answer.bundles)),
    }
