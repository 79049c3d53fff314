"""What happens after promotion: serving, monitoring, the retraining policy, and the value of outcomes."""

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
    fallback: float = Setting(0.0, description="the score if nothing better is known")
    ttl: Duration | None = Setting(None, description="older online features count as missing; absent: any age is used")


class Drift(Section):
    method: Literal["psi", "jensen_shannon", "ks", "chi2", "hellinger", "wasserstein"] = "jensen_shannon"
    threshold: float = Setting(0.1, gt=0)
    share: Share = Setting(0.3, description="the share of columns that must drift for an alert")
    bins: int = Setting(20, ge=2)


class Monitoring(Section):
    window_length: Duration = Setting(alias="window", description="of the windows that are monitored one by one")
    minimum_rows: int = Setting(100, ge=1)
    drift: Drift = Drift()
    performance_drop: float = Setting(
        0.05,
        gt=0,
        description="alert if performance is this much below the champion's at its gate, in the metric's units",
    )
    report: Literal["always", "alerts"] = Setting(
        "always", description="for which windows an Evidently report is written"
    )
    null_share: float = Setting(
        0.05, gt=0, description="alert if a column's share of nulls is this much above the reference's"
    )


class Retraining(Section):
    """The policy that decides when to retrain. It remembers earlier windows and decisions."""

    k: int = Setting(1, ge=1)
    n: int = Setting(1, ge=1, description="`k` of the last `n` windows must have alerted")
    cooldown: Duration = 0
    minimum_new_rows: int = Setting(100, ge=1)
    schedule: Duration | None = Setting(
        None, description="the age of the champion at which an alert of kind `schedule` opens"
    )
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
    """Σ value × field (or 1, if no field is named) over the matured rows with the outcome.

    Outcome `label` multiplies by the label's value. The four others compare the score with `evaluation.threshold`.
    """

    name: Name
    unit: str
    outcome: Literal["label", "true_positive", "false_positive", "false_negative", "true_negative"]
    value: float
    label: str | None = None
    field: str | None = None
