"""The use-case file: all that makes one model's life, as frozen models. `load` reads and checks it.

Terms. A *source* yields events (rows with entity keys, an event time, a creation time). The *prediction source* is the
one whose rows are answered: one row, one prediction. A *label* is an outcome of such a row, known after a delay. An
*objective* is one model of one label; the score of a row is Σ weight × objective's score. A *framing* names the
metrics. Durations are written `30m`, `2h`, `7d` and held as microseconds, so that array code can use them.

What is wrong is said with the file, the line, the path, the value and the nearest valid name; nothing is guessed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic import Field as Setting

from evermodel import extension, storage
from evermodel.artifacts import Time, Window, canonical_json, sha256
from evermodel.errors import UseCaseError, nearest

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast where libyaml is
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"^(\d+)(ms|s|m|h|d|w)$")


def parse_duration(value: Any) -> int:
    """`7d` → microseconds. ValueError where it is something else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _DURATION.match(str(value))
    if not match:
        raise ValueError(f"{value!r} is no duration; write a whole number and ms, s, m, h, d or w, such as 7d")
    number, unit = int(match[1]), match[2]
    return number * 1000 if unit == "ms" else number * UNITS[unit] * 1_000_000


def format_duration(value: int) -> str:
    """Microseconds → the shortest exact text, without weeks (7d stays 7d); the inverse of `parse_duration`."""
    for unit, seconds in sorted(UNITS.items(), key=lambda item: -item[1]):
        if unit != "w" and value and value % (seconds * 1_000_000) == 0:
            return f"{value // (seconds * 1_000_000)}{unit}"
    return f"{value // 1000}ms" if value else "0s"


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["7d"]}),
]
Name = Annotated[str, Setting(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Share = Annotated[float, Setting(ge=0, le=1)]


class Section(BaseModel):
    """A part of the file. An unknown key is an error that names the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
        return values


# data ---------------------------------------------------------------------------------------------------------------


class Entity(Section):
    """A thing that events are about. `key` is the column that identifies it."""

    name: Name
    key: Name
    type: Literal["string", "int"] = "string"
    description: str = ""


class Field(Section):
    """A column of a source, with what is allowed in it: a row outside is rejected with the reason."""

    name: Name
    type: Literal["float", "int", "string", "bool", "timestamp"] = "float"
    unit: str | None = None
    min: float | None = None
    max: float | None = None
    nullable: bool = False
    values: tuple[str, ...] | None = None
    resolution: float = Setting(2.0**-20, gt=0, description="window sums are exact multiples of this")
    column: str | None = Setting(None, description="its name in the raw source, where that differs")
    description: str = ""


class RowNumber(Section):
    """Row i of the source happens at start + i × step."""

    start: Time
    step: Duration


class Clock(Section):
    """Where an event's time comes from: a column, or the row's number where a history has no times."""

    field: str | None = None
    row_number: RowNumber | None = None
    format: str | None = Setting(None, description="strptime format of a text column; naive times are UTC")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.field is None) == (self.row_number is None):
            raise ValueError("give either field or row_number")
        return self


class Source(Section):
    """Events of one kind. `path` is relative to the data directory and may hold `*`."""

    name: Name
    reader: str = Setting(description="csv, tsv, parquet, sessions, simulator, or an import path")
    path: str | None = None
    provenance: str = Setting("", description="where the data comes from, and under which licence")
    event_time: Clock
    created_time: Clock | None = Setting(None, description="absent: created when it happened")
    constants: dict[str, str | int | float] = {}
    fields: tuple[Field, ...] = Setting(min_length=1)
    unique: tuple[str, ...] = Setting((), description="columns that identify a row; a repeat is a duplicate")
    lateness: Duration = Setting(0, description="an event created later than this after it happened counts as late")
    options: dict[str, Any] = {}

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)


class Label(Section):
    """An outcome of a row of the prediction source.

    `column`: a column of that row, known `delay` after it. `event`: whether (or, with `value`, how much of) an event
    of `source` with the same `match` columns follows within `delay`; none by then: negative, 0. A null label is
    unknown, never a class.
    """

    name: Name
    kind: Literal["column", "event"]
    type: Literal["binary", "number", "category"] = "binary"
    delay: Duration
    field: str | None = None
    positive: str | int | float | bool | None = Setting(None, description="the value of `field` that is 1")
    source: str | None = None
    match: tuple[str, ...] = ()
    value: str | None = None


# features -----------------------------------------------------------------------------------------------------------

Encoding = Literal["numeric", "embed", "hash", "bins", "none"]


class _Feature(Section):
    name: Name
    encode: Encoding = "numeric"
    missing: Literal["mean", "zero", "indicator"] = Setting(
        "indicator", description="indicator: mean, and a column that says so where the training rows had nulls"
    )
    buckets: int = Setting(64, ge=2, description="of a hash or an embedding")
    dim: int = Setting(8, ge=1, description="of an embedding")
    bins: int = Setting(16, ge=2, description="quantile bins of the training part")
    valid_min: float | None = None
    valid_max: float | None = None
    objectives: tuple[str, ...] | None = Setting(None, description="absent: all")


class ColumnFeature(_Feature):
    """A column of the answered row: known when the request is made."""

    kind: Literal["column"] = "column"
    field: str | None = Setting(None, description="absent: the feature's name")
    serve_as: float | int | str | None = Setting(
        None, description="what serving always says, such as position 1: the bias is learned, not used"
    )


class CalendarFeature(_Feature):
    """A part of the event time, UTC."""

    kind: Literal["calendar"]
    part: Literal["hour", "minute_of_day", "weekday", "day_of_month", "month", "weekend", "night", "day_of_year"]


class WindowFeature(_Feature):
    """An aggregate of an entity's earlier events in [t − delay − span, t − delay), one feature a span.

    Named `{name}_{span}`. `rate` is the mean of a 0/1 field. With a label's field use a delay no shorter than the
    label's. `last` and `distinct` take any type; `sum`, `mean` and `rate` numbers.
    """

    kind: Literal["window"]
    source: str
    entity: str
    aggregate: Literal["count", "sum", "mean", "last", "distinct", "rate"]
    field: str | None = None
    spans: tuple[Duration, ...] = Setting(min_length=1)
    delay: Duration = 0
    where: dict[str, str | int | float | bool] = {}


class LagFeature(_Feature):
    """The value that an entity's `steps`-th event before this one had."""

    kind: Literal["lag"]
    source: str
    entity: str
    field: str
    steps: int = Setting(1, ge=1)
    delay: Duration = 0


class CrossFeature(_Feature):
    """Two or more categories as one."""

    kind: Literal["cross"]
    of: tuple[str, ...] = Setting(min_length=2)


class CustomFeature(_Feature):
    """A pure function of other columns of the row, by import path."""

    kind: Literal["custom"]
    transform: str
    of: tuple[str, ...] = Setting(min_length=1)


Feature = Annotated[
    ColumnFeature | CalendarFeature | WindowFeature | LagFeature | CrossFeature | CustomFeature,
    Setting(discriminator="kind"),
]


# models -------------------------------------------------------------------------------------------------------------


class Model(Section):
    """A torch module: one of ours, or an import path."""

    kind: str = Setting("mlp", description="mlp, linear, two_tower, or an import path")
    hidden: tuple[int, ...] = (64, 32)
    activation: Literal["relu", "tanh", "silu"] = "relu"
    dropout: float = Setting(0.0, ge=0, lt=1)
    dim: int = Setting(32, ge=1, description="of the towers")
    options: dict[str, Any] = {}


class Objective(Section):
    """One model of one label."""

    name: Name
    label: str
    weight: float = 1.0
    model: Model = Model()
    loss: str = Setting(
        "default",
        description="default (by the label's type), bce, focal, mse, huber, mae, cross_entropy, or an import path",
    )
    class_weight: float | Literal["balanced"] | None = Setting(None, description="weight of the positive class")
    label_scale: float = Setting(1.0, gt=0, description="a number label is divided by this for training")


class Split(Section):
    """By time: the newest share of the training rows validates; nothing is fitted on it."""

    validation: Share = 0.1


class Stateful(Section):
    """How a retraining turn goes on from the champion."""

    epochs: int = Setting(1, ge=1)
    learning_rate: float | None = Setting(None, gt=0, description="absent: the champion's scheduler goes on")
    batch_size: int | None = Setting(None, ge=1)
    replay_share: float = Setting(
        0.2, ge=0, lt=1, description="of the rows trained, older ones drawn against forgetting"
    )
    replay_span: Duration | None = Setting(
        None, description="how far back they are drawn from; absent: to the beginning"
    )
    restandardise: bool = True


class Training(Section):
    first: Window | None = Setting(None, description="what the first champion is trained on")
    live: Time | None = Setting(
        None,
        description="when a replay's first champion is trained and goes live: later than the end of `first` where labels take long; absent: at that end",
    )
    epochs: int = Setting(10, ge=1)
    batch_size: int = Setting(256, ge=1)
    learning_rate: float = Setting(1e-3, gt=0)
    weight_decay: float = Setting(0.0, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    scheduler: Literal["constant", "cosine", "step"] = "constant"
    patience: int | None = Setting(None, ge=1, description="epochs without a better validation loss")
    seed: int = 0
    sample: int | None = Setting(None, ge=1, description="at most so many rows a fit, drawn by `sampling`")
    sampling: Literal["simple", "stratified"] = "simple"
    stateful: Stateful = Stateful()

    @model_validator(mode="after")
    def _live_after_first(self) -> Self:
        if self.live is not None and (self.first is None or self.live < self.first.end):
            raise ValueError(f"live = {self.live.isoformat()} is before the first champion's window, first, is over")
        return self


# judging ------------------------------------------------------------------------------------------------------------


class Slice(Section):
    """Rows apart by the values of a column; `bins` are the inner edges for numbers."""

    field: str
    bins: tuple[float, ...] = ()
    minimum_rows: int = Setting(50, ge=1)
    max_drop: float | None = Setting(None, ge=0, description="how much worse than the champion a slice may be")
    level: Literal["enforce", "warn"] = "warn"


class Behaviour(Section):
    """A test of what the model does, not of how well: scores must not move, move one way, or move little."""

    name: Name
    kind: Literal["invariance", "direction", "perturbation", "custom"]
    feature: str | None = None
    set: float | int | str | None = None
    add: float | None = None
    noise: float | None = Setting(None, gt=0, description="standard deviations")
    expect: Literal["up", "down"] | None = None
    tolerance: float = Setting(
        0.05,
        ge=0,
        description="invariance, perturbation: mean absolute move of the score; direction: share of rows that may go the other way",
    )
    call: str | None = None
    level: Literal["enforce", "warn"] = "warn"


class Gate(Section):
    """When a challenger may go live."""

    share: Share = Setting(0.3, description="newest share of the window's rows, never trained on by the challenger")
    first_share: Share = Setting(
        0.1, description="the same of the first champion's window; its gate rows join the replay pool"
    )
    margin: float = Setting(0.02, ge=0, description="promote where the interval's lower bound is above −margin")
    metric: str | None = Setting(None, description="absent: the use case's metric")
    confidence: float = Setting(0.95, gt=0.5, lt=1)
    resamples: int = Setting(1000, ge=100)
    minimum_rows: int = Setting(50, ge=1)
    baselines: Literal["enforce", "warn"] = "enforce"
    calibration_error: float | None = Setting(None, gt=0, description="largest expected calibration error")
    calibration: Literal["enforce", "warn"] = "warn"
    max_bytes: int = Setting(100_000_000, gt=0)
    smoke: Literal["enforce", "warn"] = "enforce"


class Evaluation(Section):
    metric: str
    k: int = Setting(10, ge=1)
    threshold: float = 0.5
    rows: dict[str, str | int | float | bool] = Setting({}, description="only rows with these values are judged")
    baselines: tuple[str, ...] = Setting(
        ("random", "majority", "boosting"), description="and a heuristic, where one is named"
    )
    heuristic: str | None = Setting(None, description="a feature whose value is the score, or an import path")


# life ---------------------------------------------------------------------------------------------------------------


class Serving(Section):
    deadline: Duration = 200_000
    feature_timeout: Duration = 50_000
    max_batch_size: int = Setting(64, ge=1)
    batch_wait: Duration = 2_000
    fallback: float = Setting(0.0, description="the score when nothing better is known")
    ttl: Duration | None = Setting(None, description="older online features count as missing")


class Drift(Section):
    method: Literal["psi", "jensen_shannon", "ks", "chi2", "hellinger", "wasserstein"] = "jensen_shannon"
    threshold: float = Setting(0.1, gt=0)
    share: Share = Setting(0.3, description="of the columns that must move for an alert")
    bins: int = Setting(20, ge=2)


class Monitoring(Section):
    window: Duration
    minimum_rows: int = Setting(100, ge=1)
    drift: Drift = Drift()
    performance_drop: float = Setting(
        0.05, gt=0, description="below the champion's own at its gate, in the metric's units"
    )
    report: Literal["always", "alerts"] = Setting(
        "always", description="for which windows an Evidently report is written"
    )
    null_share: float = Setting(0.05, gt=0, description="more nulls than the reference had by this much")


class Retraining(Section):
    """A policy with a memory."""

    k: int = Setting(1, ge=1)
    n: int = Setting(1, ge=1, description="K of the last N windows must have alerted")
    cooldown: Duration = 0
    minimum_new_rows: int = Setting(100, ge=1)
    schedule: Duration | None = Setting(None, description="an alert of kind `schedule` when the champion is this old")
    diagnoses: tuple[Literal["covariate_shift", "label_shift", "concept_shift", "unknown"], ...] = (
        "covariate_shift",
        "label_shift",
        "concept_shift",
        "unknown",
    )
    mode: Literal["stateful", "from_scratch"] = "stateful"

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"k = {self.k} is more than n = {self.n}")
        return self


class BusinessFigure(Section):
    """Σ value × (field, where one is named) over the matured rows with the outcome.

    `label`: the label's own value is multiplied. The four others compare the score with the threshold.
    """

    name: Name
    unit: str
    outcome: Literal["label", "true_positive", "false_positive", "false_negative", "true_negative"]
    value: float
    label: str | None = None
    field: str | None = None


class Prediction(Section):
    """Whose rows are answered."""

    source: str
    group: str | None = Setting(None, description="rows of one request, ranked together")
    item: str | None = Setting(None, description="what is ranked")
    position: str | None = None
    catalogue: str | None = Setting(None, description="a source whose items are all ranked for each row")


class UseCase(Section):
    """One file and all that lives under its name."""

    name: Name
    description: str = ""
    framing: Literal["binary", "multiclass", "regression", "ranking"]
    entities: tuple[Entity, ...] = Setting(min_length=1)
    sources: tuple[Source, ...] = Setting(min_length=1)
    predict: Prediction
    labels: tuple[Label, ...] = Setting(min_length=1)
    features: tuple[Feature, ...] = Setting(min_length=1)
    objectives: tuple[Objective, ...] = Setting(min_length=1)
    split: Split = Split()
    training: Training = Training()
    evaluation: Evaluation
    gate: Gate = Gate()
    slices: tuple[Slice, ...] = ()
    behaviour: tuple[Behaviour, ...] = ()
    serving: Serving = Serving()
    monitoring: Monitoring
    retraining: Retraining = Retraining()
    business: tuple[BusinessFigure, ...] = ()
    simulator: dict[str, Any] | None = Setting(None, description="see evermodel.data.simulator")

    def source(self, name: str) -> Source:
        return next(source for source in self.sources if source.name == name)

    def entity(self, name: str) -> Entity:
        return next(entity for entity in self.entities if entity.name == name)

    def label(self, name: str) -> Label:
        return next(label for label in self.labels if label.name == name)

    def objective(self, name: str) -> Objective:
        return next(objective for objective in self.objectives if objective.name == name)

    @property
    def prediction_source(self) -> Source:
        return self.source(self.predict.source)

    @property
    def maturity(self) -> int:
        """Microseconds after which every label of a row is known: the longest delay."""
        return max(label.delay for label in self.labels)

    def digest(self) -> str:
        """Of the content, not of the text: comments and order of keys don't count."""
        return sha256(canonical_json(self.model_dump(mode="json")).encode())

    def feature_columns(self, objective: str | None = None) -> tuple[str, ...]:
        """The columns that the features make, in order: a window feature makes one a span."""
        columns: list[str] = []
        for feature in self.features:
            if objective is None or feature.objectives is None or objective in feature.objectives:
                columns.extend(feature_columns(feature))
        return tuple(columns)

    @model_validator(mode="after")
    def _names(self) -> Self:
        _check_names(self)
        return self


def feature_columns(feature: Feature) -> tuple[str, ...]:
    """`("amount_sum_1d", "amount_sum_7d")` of a window over two spans; the feature's name of any other."""
    if isinstance(feature, WindowFeature):
        return tuple(f"{feature.name}_{format_duration(span)}" for span in feature.spans)
    return (feature.name,)


def _need(where: str, name: str | None, valid: Any) -> None:
    if name is not None and name not in valid:
        raise ValueError(f"{where} = {name!r} is not there; {nearest(name, valid)}")


RESERVED = ("event_time", "created_time", "ingest_seq", "row_id")  # every event has these already


def source_columns(use_case: UseCase, source: Source) -> set[str]:
    """What a row of the source holds: its fields and constants."""
    return {field.name for field in source.fields} | set(source.constants)


def _check_names(case: UseCase) -> None:
    """Every name that refers to something refers to something that is there, with a fitting type."""
    sources = {source.name: source for source in case.sources}
    entities = {entity.name: entity for entity in case.entities}
    labels = {label.name: label for label in case.labels}
    objectives = {objective.name for objective in case.objectives}
    columns = {name: source_columns(case, source) for name, source in sources.items()}
    _need("predict.source", case.predict.source, sources)
    for name, source in sources.items():
        if taken := sorted(columns[name] & set(RESERVED)):
            raise ValueError(f"sources.{name}: a field can't be named {taken[0]!r}: every event has one of its own")
        for key in source.unique:
            _need(f"sources.{name}.unique", key, columns[name] | {"event_time", "created_time"})
    spine = columns[case.predict.source]
    for key in ("group", "item", "position"):
        _need(f"predict.{key}", getattr(case.predict, key), spine)
    _need("predict.catalogue", case.predict.catalogue, sources)
    for label in case.labels:
        _check_label(label, sources, columns, spine)
    for feature in case.features:
        where = f"features.{feature.name}"
        for name in feature.objectives or ():
            _need(f"{where}.objectives", name, objectives)
        if isinstance(feature, ColumnFeature):
            _need(f"{where}.field", feature.field or feature.name, spine)
        elif isinstance(feature, (WindowFeature, LagFeature)):
            _need(f"{where}.source", feature.source, sources)
            _need(f"{where}.entity", feature.entity, entities)
            _need(f"{where}.field", feature.field, columns[feature.source])
            _need(f"{where}.entity's key in {feature.source}", entities[feature.entity].key, columns[feature.source])
            _need(f"{where}.entity's key in {case.predict.source}", entities[feature.entity].key, spine)
            _check_aggregate(where, feature, sources[feature.source], _counted(case, feature.source))
        elif isinstance(feature, (CrossFeature, CustomFeature)):
            valid = {
                column for other in case.features if other.name != feature.name for column in feature_columns(other)
            }
            for name in feature.of:
                _need(f"{where}.of", name, valid)
            if isinstance(feature, CustomFeature):
                extension.load(feature.transform, "transform")
    every = case.feature_columns()
    if repeated := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(f"features: {', '.join(repeated)} is named twice")
    for objective in case.objectives:
        _need(f"objectives.{objective.name}.label", objective.label, labels)
        if ":" in objective.model.kind:
            extension.load(objective.model.kind, "model")
        else:
            _need(f"objectives.{objective.name}.model.kind", objective.model.kind, ("mlp", "linear", "two_tower"))
        if ":" in objective.loss:
            extension.load(objective.loss, "loss")
        else:
            losses = ("default", "bce", "focal", "mse", "huber", "mae", "cross_entropy")
            _need(f"objectives.{objective.name}.loss", objective.loss, losses)
    _need("evaluation.metric", case.evaluation.metric, METRICS[case.framing])
    _need("gate.metric", case.gate.metric, METRICS[case.framing])
    for name in case.evaluation.baselines:
        _need("evaluation.baselines", name, ("random", "majority", "mean", "boosting", "popularity", "transition"))
    if case.evaluation.heuristic and ":" in case.evaluation.heuristic:
        extension.load(case.evaluation.heuristic, "heuristic")
    else:
        _need("evaluation.heuristic", case.evaluation.heuristic, {*every, *spine})
    for part in case.slices:
        _need("slices.field", part.field, {*every, *spine})
    for test in case.behaviour:
        _need(f"behaviour.{test.name}.feature", test.feature, every)
        if test.kind == "custom":
            extension.load(test.call or "", "behaviour")
    for figure in case.business:
        _need(f"business.{figure.name}.label", figure.label, labels)
        _need(f"business.{figure.name}.field", figure.field, {*every, *spine})
    if "simulator" in {source.reader for source in case.sources} and case.simulator is None:
        raise ValueError("a source reads from the simulator, and there is no simulator section")


def _check_label(label: Label, sources: dict[str, Source], columns: dict[str, set[str]], spine: set[str]) -> None:
    where = f"labels.{label.name}"
    if label.kind == "column":
        _need(f"{where}.field", label.field or label.name, spine)
        return
    if label.source is None or not label.match:
        raise ValueError(f"{where}: a label of kind event needs source and match")
    _need(f"{where}.source", label.source, sources)
    _need(f"{where}.value", label.value, columns[label.source])
    for name in label.match:
        _need(f"{where}.match", name, columns[label.source] & spine)


def _counted(case: UseCase, source: str) -> set[str]:
    """The fields of labels that name their positive value: a rate counts it, whatever the field's type."""
    found = {
        label.field or label.name for label in case.labels if label.kind == "column" and label.positive is not None
    }
    return found if source == case.predict.source else set()


def _check_aggregate(where: str, feature: WindowFeature | LagFeature, source: Source, counted: set[str]) -> None:
    if isinstance(feature, LagFeature):
        return
    for name in feature.where:
        _need(f"{where}.where", name, {field.name for field in source.fields} | set(source.constants))
    if feature.aggregate != "count" and feature.field is None:
        raise ValueError(f"{where}: aggregate {feature.aggregate} needs a field")
    if feature.aggregate == "rate" and feature.field in counted:
        return
    if feature.aggregate in ("sum", "mean", "rate") and feature.field in {field.name for field in source.fields}:
        found = source.field(feature.field or "").type
        if found not in ("float", "int", "bool"):
            raise ValueError(f"{where}: {feature.aggregate} of {feature.field!r}, which is a {found}; take a number")


METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("auc", "average_precision", "log_loss", "brier", "ece", "accuracy", "f1"),
    "multiclass": ("accuracy", "top_k", "log_loss", "f1_macro"),
    "regression": ("mae", "rmse", "rmsle"),
    "ranking": ("hr", "mrr", "ndcg"),
}
LESS_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mae", "rmse", "rmsle"})


# reading ------------------------------------------------------------------------------------------------------------


def load(path: str | Path) -> UseCase:
    """Read a use-case file (path or URI). UseCaseError with file, line, path, value and the nearest valid name."""
    if not storage.exists(path):
        raise UseCaseError(f"{path}: no such use-case file")
    return parse(storage.read_text(path), name=str(path))


def parse(text: str, *, name: str = "use case") -> UseCase:
    """Read the text of a use-case file; `name` stands in the errors."""
    loader = _Loader(text)
    try:
        tree = loader.get_single_node()
        values = loader.construct_document(tree) if tree is not None else None
    except yaml.YAMLError as error:
        raise UseCaseError(f"{name}: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict) or tree is None:
        raise UseCaseError(f"{name}: a use case is a mapping with name, sources, features, …")
    try:
        return UseCase.model_validate(values)
    except ValidationError as error:
        items = [dict(item) for item in error.errors()]
        lines = [_explain(name, tree, item) for item in items if not _follows(item, items)]
        raise UseCaseError("\n".join(lines)) from None


def _follows(item: dict[str, Any], items: list[dict[str, Any]]) -> bool:
    """Whether a list is too short only because its elements are wrong: the elements' errors say so already."""
    here = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(here)] == here and len(other["loc"]) > len(here) for other in items
    )


def _explain(name: str, tree: yaml.Node, error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"] and (said := _PATH.match(message)):
        return f"{name}:{_line_of(tree, said[1])}: {message}"  # the message begins with the path already
    line, path = _locate(tree, error["loc"])
    value = error.get("input")
    shown = "" if isinstance(value, (dict, list)) else f" = {value!r}"
    return f"{name}:{line}: {path or 'use case'}{shown}: {message}"


_PATH = re.compile(r"^([a-z_]+(?:\.\w+)*)[ :']")


def _line_of(tree: yaml.Node, path: str) -> int:
    """The line of a path such as `labels.up.field`, where a list's element goes by its name."""
    node = tree
    for step in path.split("."):
        found = _child(node, step)
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1


def _child(node: yaml.Node, step: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode):
        named = (item for item in node.value if (name := _child(item, "name")) is not None and name.value == step)
        return next(named, None)
    return None


def _locate(tree: yaml.Node, loc: tuple[int | str, ...]) -> tuple[int, str]:
    """The line of the deepest node on the error's path, and the path as it is written in the file."""
    node, path = tree, ""
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            found = _child(node, str(step))
            if found is None:
                if not _is_tag(step):
                    path += f".{step}"
                continue  # a missing key, or the tag of a union, which the file doesn't hold
            node, path = found, f"{path}.{step}"
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node, path = node.value[step], f"{path}[{step}]"
    return int(node.start_mark.line) + 1, path.lstrip(".")


def _is_tag(step: int | str) -> bool:
    return step in {"column", "calendar", "window", "lag", "cross", "custom"}


def json_schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors."""
    return UseCase.model_json_schema(mode="validation")


def with_seed(case: UseCase, seed: int) -> UseCase:
    """The same use case with another seed: a variant is the base with one field changed."""
    return case.model_copy(update={"training": case.training.model_copy(update={"seed": seed})})
