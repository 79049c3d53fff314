"""HTTP bodies as pydantic models, built from the use case, so that OpenAPI states exactly what is accepted.

A *row* is the input of one prediction: the prediction source's fields that are known beforehand (never a label's own
column) and its constants. A `Problem` says what is wrong with a request: code, field, reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from evermodel import use_case as definition
from evermodel.errors import ServingError, nearest
from evermodel.use_case import ColumnFeature, UseCase

MAX_ROWS = 1000
MAX_TEXT = 4096
INT64 = 2**63
CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "literal_error": "not_allowed",
    "finite_number": "out_of_range",
    "json_invalid": "invalid_json",
}


def _in_range(value: Any) -> Any:
    """ValueError, so 422 and not 500, if the time has no UTC form (year 1 east of Greenwich)."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("write a time as text in ISO 8601 with its zone, such as 2026-01-31T12:00:00Z")
    try:
        return value.astimezone(UTC) if value.tzinfo else value
    except OverflowError:
        raise ValueError("the time is out of range") from None


def _as_integer(value: Any) -> Any:
    """6.0 → 6, because JSON has only one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Moment = Annotated[AwareDatetime, BeforeValidator(_in_range)]


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Schema):
    """Why a request failed, and which field to correct."""

    code: str = Field(description="a word that programs can act on", examples=["missing"])
    field: str | None = Field(description="the path of the wrong field, if there is one", examples=["rows[0].amount"])
    reason: str = Field(description="what is wrong and what would be right")


class PredictedRow(Schema):
    """One prediction. A category label has `classes` (best first) in place of a combined score."""

    prediction_id: str
    score: float | None
    scores: dict[str, float | None] = Field(description="by objective; of a category, its best class's probability")
    classes: list[str] | None = None
    release: str | None = Field(description="null if no model answered")
    arm: str | None
    fallback: bool = Field(description="true: the models or features were late or failed; see reason and source")
    reason: str | None = None
    source: Literal["last_known", "heuristic", "constant"] | None = None


class PredictResponse(Schema):
    answers: list[PredictedRow]


class RankedItem(Schema):
    """One candidate of a ranking. `index` is its position in the request (null for a class)."""

    item: str | int | float | None
    index: int | None
    prediction_id: str
    score: float | None
    scores: dict[str, float | None]


class RankResponse(Schema):
    """Best first; ties stay in the order of the request."""

    ranking: list[RankedItem]
    release: str | None
    arm: str | None
    fallback: bool
    reason: str | None = None
    source: Literal["last_known", "heuristic", "constant"] | None = None


def row_model(use_case: UseCase, *, partial: bool = False) -> type[BaseModel]:
    """The model of a row. `partial`: no field is required (a ranking's context and candidates are merged later)."""
    needed = required_fields(use_case)
    source = use_case.prediction_source
    members: dict[str, Any] = {}
    for field in request_fields(use_case):
        required = field.name in needed and not partial
        kind = _annotation(field)
        if not required:
            kind = kind | None
        settings = Field(... if required else None, alias=field.name, description=field.description or field.unit)
        members[f"f_{field.name}"] = (kind, settings)
    for name, value in source.constants.items():
        members[f"f_{name}"] = (Literal[value] | None, Field(None, alias=name, description="the same in every row"))
    name = f"{use_case.name}_{'part' if partial else 'row'}"
    return create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **members)


def predict_request(use_case: UseCase, *, simulated_time: bool = False) -> type[BaseModel]:
    """`{"rows": [row, …], "request_id": …}`. The same request_id gives the same prediction ids, so a retry is logged once."""
    rows: Any = list[row_model(use_case)]  # type: ignore[misc]
    return create_model(
        f"{use_case.name}_predict",
        __config__=ConfigDict(extra="forbid", json_schema_extra={"examples": [{"rows": [example_row(use_case)]}]}),
        rows=(rows, Field(min_length=1, max_length=MAX_ROWS)),
        **_envelope(simulated_time),
    )


def rank_request(use_case: UseCase, *, simulated_time: bool = False) -> type[BaseModel]:
    """Items: `{"context": shared fields, "candidates": [other fields, …]}`. Classes: `{"row": …, "candidates": [class, …]}`."""
    members: dict[str, Any] = _envelope(simulated_time)
    members["k"] = (
        Annotated[int, Field(ge=1, le=MAX_ROWS, strict=True), BeforeValidator(_as_integer)] | None,
        Field(None, description="absent: all"),
    )
    if ranks_classes(use_case):
        classes = Annotated[list[str], Field(min_length=1, max_length=10 * MAX_ROWS)]
        members["row"] = (row_model(use_case), ...)
        members["candidates"] = (classes | None, Field(None, description="absent: every class that the model knows"))
    else:
        part: Any = row_model(use_case, partial=True)
        members["context"] = (part | None, Field(None, description="the fields that all candidates share"))
        members["candidates"] = (list[part], Field(min_length=1, max_length=MAX_ROWS))
    return create_model(f"{use_case.name}_rank", __config__=ConfigDict(extra="forbid"), **members)


def _envelope(simulated_time: bool) -> dict[str, Any]:
    """Fields that every request may have. `at` only if time is simulated; else the server's clock gives the time."""
    text = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
    members: dict[str, Any] = {"request_id": (text | None, Field(None, description="absent: a new one"))}
    if simulated_time:
        members["at"] = (
            Moment | None,
            Field(None, description="the time of the request, in simulated time; absent: the clock's"),
        )
    return members


def ranks_classes(use_case: UseCase) -> bool:
    """Whether the objectives predict a category, so that the label's classes are ranked."""
    return all(use_case.label(objective.label).type == "category" for objective in use_case.objectives)


def is_rankable(use_case: UseCase) -> bool:
    """Whether there is something to rank: classes, or items that the prediction source names."""
    return ranks_classes(use_case) or use_case.predict.item is not None


def request_fields(use_case: UseCase) -> list[definition.Field]:
    """The prediction source's fields that are known at prediction time: all but the labels' own columns."""
    labels = {label.field or label.name for label in use_case.labels if label.kind == "column"}
    return [field for field in use_case.prediction_source.fields if field.name not in labels]


def required_fields(use_case: UseCase) -> set[str]:
    """The fields that a row must have: entity keys, the item, and the fields of features that serving doesn't fix."""
    source = use_case.prediction_source
    known = {field.name: field for field in request_fields(use_case)}
    needed = {entity.key for entity in use_case.entities} | {use_case.predict.item}
    for feature in use_case.features:
        if isinstance(feature, ColumnFeature) and feature.serve_as is None:
            needed.add(feature.field or feature.name)
    return {name for name in known if name in needed and not known[name].nullable and name not in source.constants}


def parse_row(
    use_case: UseCase, model: type[BaseModel], raw: Mapping[str, Any], *, where: str = "row"
) -> dict[str, Any]:
    """The checked values of a raw row, None if absent; ServingError with the first problem."""
    try:
        return values_of(use_case, model.model_validate(dict(raw)))
    except ValidationError as error:
        first = describe_error({**error.errors(include_url=False)[0]}, valid=row_names(use_case), prefix=(where,))
        raise ServingError(first.code, first.reason, field=first.field) from None


def values_of(use_case: UseCase, row: BaseModel) -> dict[str, Any]:
    """A validated row as a plain dict under the source's own names, with the source's constants."""
    return {**row.model_dump(by_alias=True), **use_case.prediction_source.constants}


def describe_error(error: Mapping[str, Any], *, valid: Sequence[str] = (), prefix: Sequence[str | int] = ()) -> Problem:
    """One pydantic error (from `ValidationError.errors()`) as a Problem, without the input and without a trace."""
    kind = str(error["type"])
    steps = [step for step in (*prefix, *error["loc"]) if not _is_internal(step)]
    code = CODES.get(kind) or ("out_of_range" if _is_bound(kind) else "wrong_type")
    reason = str(error["msg"])
    if kind == "extra_forbidden":
        reason = f"no such field; {nearest(str(steps[-1]), valid)}" if valid else "no such field"
    return Problem(code=code, field=path_of(steps), reason=reason)


def problem_response(status: int, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The HTTP response of a failed request."""
    return JSONResponse(problem.model_dump(), status, dict(headers) if headers else None)


def path_of(steps: Sequence[str | int]) -> str | None:
    """("rows", 0, "amount") → `rows[0].amount`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    return text or None


def example_row(use_case: UseCase) -> dict[str, Any]:
    """A valid row as JSON values, for the smoke request and as OpenAPI's example."""
    needed = required_fields(use_case)
    return {field.name: _example(field) for field in request_fields(use_case) if field.name in needed}


def row_names(use_case: UseCase) -> list[str]:
    """Every name that a row may hold."""
    return [field.name for field in request_fields(use_case)] + [*use_case.prediction_source.constants]


def _annotation(field: definition.Field) -> Any:
    """The type of a value, with its bounds. It is strict: `"10"` and true are no numbers."""
    if field.type == "timestamp":
        return Moment
    if field.type == "bool":
        return Annotated[bool, Field(strict=True)]
    if field.type == "float":
        return Annotated[float, Field(strict=True, ge=field.min, le=field.max, allow_inf_nan=False)]
    if field.type == "int":
        low = -INT64 if field.min is None else max(math.ceil(field.min), -INT64)
        high = INT64 - 1 if field.max is None else min(math.floor(field.max), INT64 - 1)
        return Annotated[int, Field(strict=True, ge=low, le=high), BeforeValidator(_as_integer)]
    return Literal[field.values] if field.values else Annotated[str, Field(strict=True, max_length=MAX_TEXT)]


def _example(field: definition.Field) -> Any:
    if field.type == "string":
        return field.values[0] if field.values else "example"
    if field.type == "bool":
        return True
    if field.type == "timestamp":
        return "2026-01-01T00:00:00Z"
    low = 0.0 if field.min is None else field.min
    high = low + 1.0 if field.max is None else field.max
    return math.ceil(low) if field.type == "int" else (low + high) / 2 if low <= high else high


def _is_internal(step: str | int) -> bool:
    """Whether pydantic added the step for the branch of a union: the request has no such field."""
    return isinstance(step, str) and (step.startswith(("function-", "literal[", "constrained-")) or step == "body")


def _is_bound(kind: str) -> bool:
    return (
        kind.startswith(("greater_than", "less_than", "too_", "string_too", "string_pattern")) or kind == "value_error"
    )
