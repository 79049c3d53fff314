"""How a challenger is judged: metrics and baselines, slices, behaviour tests, the gate.

`METRICS` and `BASELINES` are the only lists of what there is, with the properties that several stages need.
`evermodel.evaluation` computes them: one function for each name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field as Setting

from evermodel.use_case.types import Name, Section, Share


@dataclass(frozen=True)
class Metric:
    """The properties of a metric."""

    framings: tuple[str, ...]
    less_is_better: bool = False
    needs_probabilities: bool = False  # undefined if a score lies outside [0, 1]
    has_threshold: bool = False  # a binary score from `evaluation.threshold` on predicts the positive label
    is_mean: bool = True  # a function of means over rows or lists; the others depend on the order of all rows

    @property
    def sign(self) -> float:
        """+1 if more is better, −1 if less is. A difference is multiplied by it."""
        return -1.0 if self.less_is_better else 1.0

    @property
    def needs_only_places(self) -> bool:
        """Whether the order of the classes is enough for a category label."""
        return not self.needs_probabilities and not {"multiclass", "ranking"}.isdisjoint(self.framings)


METRICS: dict[str, Metric] = {
    "auc": Metric(("binary",), is_mean=False),
    "average_precision": Metric(("binary",), is_mean=False),
    "accuracy": Metric(("binary", "multiclass"), has_threshold=True),
    "top_k": Metric(("multiclass",)),
    "log_loss": Metric(("binary", "multiclass"), less_is_better=True, needs_probabilities=True),
    "brier": Metric(("binary",), less_is_better=True, needs_probabilities=True),
    "ece": Metric(("binary",), less_is_better=True, needs_probabilities=True),
    "f1": Metric(("binary",), has_threshold=True),
    "f1_macro": Metric(("multiclass",)),
    "mae": Metric(("regression",), less_is_better=True),
    "rmse": Metric(("regression",), less_is_better=True),
    "rmsle": Metric(("regression",), less_is_better=True),
    "hr": Metric(("ranking",)),
    "mrr": Metric(("ranking",)),
    "ndcg": Metric(("ranking",)),
}


def metric_names(framing: str) -> tuple[str, ...]:
    """The metrics of a framing."""
    return tuple(name for name, metric in METRICS.items() if framing in metric.framings)


@dataclass(frozen=True)
class BaselineKind:
    """The properties of a baseline."""

    trivial: bool = False  # a challenger must beat it; any other may be better by the gate's margin
    fitted: bool = False  # costs a fit on the training rows


BASELINES: dict[str, BaselineKind] = {
    "random": BaselineKind(trivial=True),
    "majority": BaselineKind(trivial=True),
    "mean": BaselineKind(trivial=True),
    "boosting": BaselineKind(fitted=True),
    "popularity": BaselineKind(),
    "transition": BaselineKind(),
}


class Evaluation(Section):
    metric: str
    k: int = Setting(10, ge=1)
    threshold: float = 0.5
    rows: dict[str, str | int | float | bool] = Setting({}, description="only rows with these values count")
    baselines: tuple[str, ...] = Setting(
        ("random", "majority", "boosting"), description="the heuristic, if there is one, is added"
    )
    heuristic: str | None = Setting(None, description="a feature whose value is the score, or an import path")


class Slice(Section):
    """Parts of the rows by the values of a column; `bins` are the inner edges of numbers."""

    field: str
    bins: tuple[float, ...] = ()
    minimum_rows: int = Setting(50, ge=1)
    max_drop: float | None = Setting(None, ge=0, description="how much worse than the champion a slice may be")
    level: Literal["enforce", "warn"] = "warn"


class BehaviourTest(Section):
    """A test of the model's behaviour: the score must not move, must move one way, or must move little."""

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
        0.1, description="the same of the first champion's window; its gate rows join the rehearsal rows later"
    )
    margin: float = Setting(0.02, ge=0, description="promote if the interval's lower bound is above −margin")
    metric: str | None = Setting(None, description="the use case's metric if absent")
    confidence: float = Setting(0.95, gt=0.5, lt=1)
    resamples: int = Setting(1000, ge=100)
    minimum_rows: int = Setting(50, ge=1)
    baselines: Literal["enforce", "warn"] = "enforce"
    calibration_error: float | None = Setting(None, gt=0, description="largest expected calibration error")
    calibration: Literal["enforce", "warn"] = "warn"
    max_bytes: int = Setting(100_000_000, gt=0)
    smoke: Literal["enforce", "warn"] = "enforce"
