"""What a challenger is judged by: metrics and baselines, slices, tests of behaviour, the gate.

A framing names the metrics.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting

from evermodel.use_case.types import Name, Section, Share

METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("auc", "average_precision", "log_loss", "brier", "ece", "accuracy", "f1"),
    "multiclass": ("accuracy", "top_k", "log_loss", "f1_macro"),
    "regression": ("mae", "rmse", "rmsle"),
    "ranking": ("hr", "mrr", "ndcg"),
}
LESS_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mae", "rmse", "rmsle"})


class Evaluation(Section):
    metric: str
    k: int = Setting(10, ge=1)
    threshold: float = 0.5
    rows: dict[str, str | int | float | bool] = Setting({}, description="only rows with these values are judged")
    baselines: tuple[str, ...] = Setting(
        ("random", "majority", "boosting"), description="and a heuristic, where one is named"
    )
    heuristic: str | None = Setting(None, description="a feature whose value is the score, or an import path")


class Slice(Section):
    """Rows apart by the values of a column; `bins` are the inner edges for numbers."""

    field: str
    bins: tuple[float, ...] = ()
    minimum_rows: int = Setting(50, ge=1)
    max_drop: float | None = Setting(None, ge=0, description="how much worse than the champion a slice may be")
    level: Literal["enforce", "warn"] = "warn"


class BehaviourTest(Section):
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
