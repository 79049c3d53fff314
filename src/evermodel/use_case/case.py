"""The whole file: its sections, and the checks of references between them.

Each section checks itself. Only this module can check that a feature's source, an objective's label or a slice's column
exists. Import paths are loaded, so that a wrong one fails when the file is read, not in a run.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field as Setting
from pydantic import model_validator

from evermodel import plugins
from evermodel.errors import UseCaseError, nearest
from evermodel.records import canonical_json, sha256
from evermodel.use_case.data import Entity, Label, PredictionTask, Source
from evermodel.use_case.evaluation import BASELINES, BehaviourTest, Evaluation, Gate, Slice, metric_names
from evermodel.use_case.features import (
    ColumnFeature,
    CrossFeature,
    CustomFeature,
    Feature,
    LagFeature,
    WindowFeature,
    feature_columns,
)
from evermodel.use_case.operations import BusinessFigure, Monitoring, Retraining, Serving
from evermodel.use_case.training import LOSSES, MODEL_KINDS, TREE_LOSSES, Objective, Split, Training
from evermodel.use_case.types import Name, Section

RESERVED = ("event_time", "created_time", "ingest_seq", "row_id")  # every event has these


class UseCase(Section):
    """One file. Everything of a use case is stored under its name."""

    name: Name
    description: str = ""
    framing: Literal["binary", "multiclass", "regression", "ranking"]
    entities: tuple[Entity, ...] = Setting(min_length=1)
    sources: tuple[Source, ...] = Setting(min_length=1)
    predict: PredictionTask
    labels: tuple[Label, ...] = Setting(min_length=1)
    features: tuple[Feature, ...] = Setting(min_length=1)
    objectives: tuple[Objective, ...] = Setting(min_length=1)
    split: Split = Split()
    training: Training = Training()
    evaluation: Evaluation
    gate: Gate = Gate()
    slices: tuple[Slice, ...] = ()
    behaviour: tuple[BehaviourTest, ...] = ()
    serving: Serving = Serving()
    monitoring: Monitoring
    retraining: Retraining = Retraining()
    business: tuple[BusinessFigure, ...] = ()
    simulator: dict[str, Any] | None = Setting(None, description="see evermodel.simulation.simulator")

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
        """The sha256 of the content, not of the text: comments and the order of keys don't count."""
        return sha256(canonical_json(self.model_dump(mode="json")).encode())

    def check_digest(self, digest: str, uri: str) -> None:
        """UseCaseError if the file at `uri` isn't the one that a run was started with. An empty digest accepts any."""
        if digest not in ("", self.digest()):
            raise UseCaseError(
                f"{uri}: the use case is not the one that the run was started with (digest {digest[:12]})"
            )

    def feature_columns(self, objective: str | None = None) -> tuple[str, ...]:
        """The columns that the features make, in order: a window feature makes one for each span."""
        columns: list[str] = []
        for feature in self.features:
            if objective is None or feature.objectives is None or objective in feature.objectives:
                columns.extend(feature_columns(feature))
        return tuple(columns)

    @model_validator(mode="after")
    def _names(self) -> Self:
        _check_names(self)
        return self


def with_seed(case: UseCase, seed: int) -> UseCase:
    """The same use case with another seed."""
    return case.model_copy(update={"training": case.training.model_copy(update={"seed": seed})})


def source_columns(use_case: UseCase, source: Source) -> set[str]:
    """The columns of a source's rows: its fields and constants."""
    return {field.name for field in source.fields} | set(source.constants)


def _check_names(case: UseCase) -> None:
    """Check that each reference leads to something that exists and has a fitting type."""
    sources = {source.name: source for source in case.sources}
    columns = {name: source_columns(case, source) for name, source in sources.items()}
    _need("predict.source", case.predict.source, sources)
    spine = columns[case.predict.source]
    _check_data(case, sources, columns, spine)
    _check_features(case, sources, columns, spine)
    _check_objectives(case)
    _check_evaluation(case, {*case.feature_columns(), *spine})
    if "simulator" in {source.reader for source in case.sources} and case.simulator is None:
        raise ValueError("a source has the reader simulator, so the file needs a simulator section")


def _check_data(case: UseCase, sources: dict[str, Source], columns: dict[str, set[str]], spine: set[str]) -> None:
    for name, source in sources.items():
        if taken := sorted(columns[name] & set(RESERVED)):
            raise ValueError(
                f"sources.{name}: a field can't be named {taken[0]!r}: every event has a column of that name"
            )
        for key in source.unique:
            _need(f"sources.{name}.unique", key, columns[name] | {"event_time", "created_time"})
    for key in ("group", "item", "position"):
        _need(f"predict.{key}", getattr(case.predict, key), spine)
    _need("predict.catalogue", case.predict.catalogue, sources)
    for label in case.labels:
        _check_label(label, sources, columns, spine)


def _check_features(case: UseCase, sources: dict[str, Source], columns: dict[str, set[str]], spine: set[str]) -> None:
    entities = {entity.name: entity for entity in case.entities}
    objectives = {objective.name for objective in case.objectives}
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
                plugins.load(feature.transform, "transform")
    every = case.feature_columns()
    if repeated := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(f"features: {', '.join(repeated)} is named twice")


def _check_objectives(case: UseCase) -> None:
    labels = [label.name for label in case.labels]
    for objective in case.objectives:
        where, model = f"objectives.{objective.name}", objective.model
        _need(f"{where}.label", objective.label, labels)
        if ":" in model.kind:
            plugins.load(model.kind, "model")
        else:
            _need(f"{where}.model.kind", model.kind, MODEL_KINDS)
        if model.is_trees:
            _need(f"{where}.loss of a gbt", objective.loss, ("default", *TREE_LOSSES))
        elif ":" in objective.loss:
            plugins.load(objective.loss, "loss")
        else:
            _need(f"{where}.loss", objective.loss, ("default", *(name for names in LOSSES.values() for name in names)))


def _check_evaluation(case: UseCase, columns: set[str]) -> None:
    _need("evaluation.metric", case.evaluation.metric, metric_names(case.framing))
    _need("gate.metric", case.gate.metric, metric_names(case.framing))
    for name in case.evaluation.baselines:
        _need("evaluation.baselines", name, BASELINES)
    if case.evaluation.heuristic and ":" in case.evaluation.heuristic:
        plugins.load(case.evaluation.heuristic, "heuristic")
    else:
        _need("evaluation.heuristic", case.evaluation.heuristic, columns)
    for part in case.slices:
        _need("slices.field", part.field, columns)
    for test in case.behaviour:
        _need(f"behaviour.{test.name}.feature", test.feature, case.feature_columns())
        if test.kind == "custom":
            plugins.load(test.call or "", "behaviour")
    for figure in case.business:
        _need(f"business.{figure.name}.label", figure.label, [label.name for label in case.labels])
        _need(f"business.{figure.name}.field", figure.field, columns)


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
    """The fields of labels with a positive value. Their rate counts that value, so the field may have any type."""
    fields = {
        label.field or label.name for label in case.labels if label.kind == "column" and label.positive is not None
    }
    return fields if source == case.predict.source else set()


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
        kind = source.field(feature.field or "").type
        if kind not in ("float", "int", "bool"):
            raise ValueError(f"{where}: {feature.aggregate} needs a number, but {feature.field!r} is a {kind}")


def _need(where: str, name: str | None, valid: Any) -> None:
    if name is not None and name not in valid:
        raise ValueError(f"{where} = {name!r} does not exist; {nearest(name, valid)}")
