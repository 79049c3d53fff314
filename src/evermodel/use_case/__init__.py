"""The use-case file as frozen models. `load` reads and checks it.

| module | sections of the file | what they define |
|---|---|---|
| `data` | entities, sources, predict, labels | where rows come from, which of them get a prediction, and their outcomes |
| `features` | features | the inputs of the models |
| `training` | objectives, split, training | the models, and the recipes of the first and of every later training |
| `evaluation` | evaluation, gate, slices, behaviour | when a challenger may go live |
| `operations` | serving, monitoring, retraining, business | what happens after promotion |

`case` joins the sections and checks the references between them. `types` has durations, names and shares. `parsing` reads
a `UseCase` from text. `cache` keeps values that are derived from one. An error states the file, the line, the path, the
value and the nearest valid name.
"""

from evermodel.records import Time, Window
from evermodel.use_case.cache import of_use_case
from evermodel.use_case.case import RESERVED, UseCase, source_columns, with_seed
from evermodel.use_case.data import Clock, Entity, Field, Label, PredictionTask, RowNumber, Source
from evermodel.use_case.evaluation import (
    BASELINES,
    METRICS,
    BaselineKind,
    BehaviourTest,
    Evaluation,
    Gate,
    Metric,
    Slice,
    metric_names,
)
from evermodel.use_case.features import (
    CalendarFeature,
    ColumnFeature,
    CrossFeature,
    CustomFeature,
    Encoding,
    Feature,
    LagFeature,
    WindowFeature,
    feature_columns,
)
from evermodel.use_case.operations import BusinessFigure, Drift, Monitoring, Retraining, Serving
from evermodel.use_case.parsing import json_schema, load, parse
from evermodel.use_case.training import LOSSES, TREE_LOSSES, Model, Objective, Split, Stateful, Training, TreeOptions
from evermodel.use_case.types import UNITS, Duration, Name, Section, Share, format_duration, parse_duration

__all__ = [
    "BASELINES",
    "LOSSES",
    "METRICS",
    "RESERVED",
    "TREE_LOSSES",
    "UNITS",
    "BaselineKind",
    "BehaviourTest",
    "BusinessFigure",
    "CalendarFeature",
    "Clock",
    "ColumnFeature",
    "CrossFeature",
    "CustomFeature",
    "Drift",
    "Duration",
    "Encoding",
    "Entity",
    "Evaluation",
    "Feature",
    "Field",
    "Gate",
    "Label",
    "LagFeature",
    "Metric",
    "Model",
    "Monitoring",
    "Name",
    "Objective",
    "PredictionTask",
    "Retraining",
    "RowNumber",
    "Section",
    "Serving",
    "Share",
    "Slice",
    "Source",
    "Split",
    "Stateful",
    "Time",
    "Training",
    "TreeOptions",
    "UseCase",
    "Window",
    "WindowFeature",
    "feature_columns",
    "format_duration",
    "json_schema",
    "load",
    "metric_names",
    "of_use_case",
    "parse",
    "parse_duration",
    "source_columns",
    "with_seed",
]
