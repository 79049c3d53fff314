"""What happens after promotion: serving, monitoring, the retraining policy, and what the outcomes are worth."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field as Setting
from pydantic import model_validator

from evermodel.use_case.types import Duration, Name, Section, Share


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
