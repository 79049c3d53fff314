"""The records that travel between stages: frozen and small, with canonical JSON. Data travels by reference (`Ref`).

Times are timezone-aware UTC here; array code has int64 microseconds since the epoch (`micros`).
A `Window` is half-open in event time: start ≤ t < end.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from evermodel.clock import micros

AlertKind = Literal["data_quality", "feature_drift", "prediction_drift", "performance", "schedule", "manual"]
Diagnosis = Literal["broken_data", "covariate_shift", "label_shift", "concept_shift", "unknown"]
Mode = Literal["stateful", "from_scratch"]
VerdictWord = Literal["promote", "hold", "reject"]
#: The state in which a run ends, by the verdict; the fourth state is `failed`.
RUN_STATES: dict[VerdictWord, Literal["promoted", "held", "rejected"]] = {
    "promote": "promoted",
    "hold": "held",
    "reject": "rejected",
}


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"time {value.isoformat()} has no zone; write it with Z or an offset")
    return value.astimezone(UTC)


Time = Annotated[datetime, AfterValidator(_utc)]


class Artifact(BaseModel):
    """A frozen record with canonical JSON: the same content gives the same bytes and the same digest."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", populate_by_name=True)

    def to_json(self) -> str:
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls.model_validate_json(text)

    def content_digest(self) -> str:
        return sha256(self.to_json().encode())


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Window(Artifact):
    """[start, end) in event time."""

    start: Time
    end: Time

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"window start {self.start.isoformat()} is not before its end {self.end.isoformat()}")
        return self

    @property
    def span(self) -> tuple[int, int]:
        """(start, end) in microseconds."""
        return micros(self.start), micros(self.end)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%M:%SZ}..{self.end:%Y-%m-%dT%H:%M:%SZ}"


class Ref(Artifact):
    """A file in storage, with the digest of its content."""

    uri: str
    digest: str


class IngestReport(Artifact):
    """rows_in = applied + duplicate + rejected. Late rows are applied, and counted in `late` too."""

    source: str
    batch_id: str
    rows_in: int
    applied: int
    duplicate: int
    rejected: int
    late: int = 0
    reject_reasons: dict[str, int] = {}
    rejects_uri: str | None = None
    data_version: str


class TrainingManifest(Artifact):
    """The origin of a model: enough to prove which windows it was trained on, and to train it again."""

    use_case: str
    objective: str
    mode: Mode
    windows: tuple[Window, ...]
    gate_window: Window | None = None
    rehearsal_rows: int = Field(0, validation_alias=AliasChoices("rehearsal_rows", "replay_rows"))
    rehearsal_window: Window | None = Field(None, validation_alias=AliasChoices("rehearsal_window", "replay_window"))
    trigger: Window | None = None
    rows: int
    epochs: int
    rows_trained: int  # rows × epochs, rehearsal rows included
    row_digest: str  # over the sorted ids of the rows trained on
    data_version: str
    training_set: Ref | None = None
    config_digest: str
    features: tuple[str, ...]
    code_version: str
    parent: str | None = None  # bundle digest
    seed: int
    num_workers: int = 1
    seconds: float  # the optimisation loop alone
    step0_loss: float | None = None
    parent_loss: float | None = None
    final_loss: float
    cursor: Time  # the next round's new rows start here
    reason: str | None = None  # why from_scratch, if there was a parent
    not_restored: tuple[str, ...] = ()  # parts of the parent's state that the kind of model can't restore


class TrainingSet(Artifact):
    """The rows of one training round, by reference: fresh rows, rehearsal rows and gate rows.

    The gate rows are the newest share of the matured rows. The next round starts with them (`cursor`).
    """

    use_case: str
    windows: tuple[Window, ...]  # of the fresh rows trained on
    gate_window: Window
    rehearsal_window: Window | None = Field(validation_alias=AliasChoices("rehearsal_window", "replay_window"))
    train: Ref
    gate: Ref
    rehearsal: Ref | None = Field(validation_alias=AliasChoices("rehearsal", "replay"))
    rows: int
    gate_rows: int
    rehearsal_rows: int = Field(validation_alias=AliasChoices("rehearsal_rows", "replay_rows"))
    row_digest: str  # sha256 over the sorted int64 ids of the rows trained on, rehearsal rows included
    data_version: str
    cursor: Time


class BundleRef(Artifact):
    """One objective's packed model."""

    objective: str
    uri: str
    digest: str


class Release(Artifact):
    """The unit of promotion: one bundle for each objective, and their initial weights in serving."""

    use_case: str
    bundles: tuple[BundleRef, ...]
    weights: dict[str, float]
    cursor: Time  # every matured row before it has been trained on, or is in the rehearsal pool
    created: Time
    home: str  # the folder that holds its bundles, evaluation report, card and monitoring reference
    parent: str | None = None  # release id

    @property
    def id(self) -> str:
        """Twelve hex digits over bundles, weights, cursor and parent, not over the folder or the time."""
        digests = {bundle.objective: bundle.digest for bundle in self.bundles}
        content = (self.use_case, digests, self.weights, self.cursor.isoformat(), self.parent)
        return sha256(canonical_json(content).encode())[:12]

    def bundle(self, objective: str) -> BundleRef:
        return next(bundle for bundle in self.bundles if bundle.objective == objective)


class Plan(Artifact):
    """The work of one training run. No step of it depends on the moment at which it runs.

    It has the digests of all inputs, so that a cached step is reused exactly if its inputs are the same.
    """

    use_case: str
    use_case_uri: str
    use_case_digest: str
    data_version: str
    code_version: str
    windows: tuple[Window, ...]
    mode: Mode
    parent: Release | None  # stateful training continues from it
    champion: Release | None  # the challenger is compared with it and replaces it
    trigger: Window | None
    now: Time
    key: str  # the retrain key: each key has one run
    reason: str


class Check(Artifact):
    """One reason of a verdict."""

    name: str
    level: Literal["enforce", "warn"]
    passed: bool
    reason: str
    value: float | None = None
    bound: float | None = None


class Interval(Artifact):
    """A point estimate with its bootstrap interval."""

    point: float
    low: float
    high: float
    level: float = 0.95


class Verdict(Artifact):
    """The gate's verdict, with every reason."""

    word: VerdictWord
    difference: Interval | None = None  # challenger − champion on the same rows; positive is better
    checks: tuple[Check, ...] = ()
    reasons: tuple[str, ...] = ()


class SliceScore(Artifact):
    slice: str
    value: str
    rows: int
    metric: float | None
    champion: float | None = None  # the champion's, on the same rows


class EvaluationReport(Artifact):
    """How a challenger (and, on the same rows, the champion and the baselines) did on rows it never trained on."""

    use_case: str
    challenger: str
    champion: str | None
    rows: int
    window: Window
    metric: str
    gate_metric: str | None = None  # the metric of baselines, slices and verdict; None: `metric`
    metrics: dict[str, float | None]
    champion_metrics: dict[str, float | None] = {}
    baselines: dict[str, float | None] = {}
    slices: tuple[SliceScore, ...] = ()
    calibration: tuple[tuple[float, float, int], ...] = ()  # mean score, observed rate, rows per bin
    roc: tuple[tuple[float, float, float], ...] = ()  # false positive rate, true positive rate, threshold
    behaviour: tuple[Check, ...] = ()
    model_bytes: int
    milliseconds_per_row: float
    verdict: Verdict

    @property
    def verdict_metric(self) -> str:
        """The metric of the verdict, the baselines and the slices."""
        return self.gate_metric or self.metric


class DriftScore(Artifact):
    """One column of one window against the reference. `drifted` is None if it can't be known."""

    column: str
    method: str
    score: float | None
    threshold: float
    drifted: bool | None


class Alert(Artifact):
    use_case: str
    kind: AlertKind
    window: Window
    champion: str | None
    diagnosis: Diagnosis = "unknown"
    evidence: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """The digest of use case, kind, window and champion: a repeated alert has the same id."""
        key = (self.use_case, self.kind, *self.window.span, self.champion)
        return sha256(canonical_json(key).encode())[:16]


class MonitoringReport(Artifact):
    """One window of predictions against the champion's reference. A figure is None if too little is known."""

    use_case: str
    window: Window
    champion: str | None
    rows: int
    matured_rows: int
    metric: str
    performance: float | None  # on matured rows only
    estimate: float | None = None  # of the same metric, while labels are missing
    reference: float | None  # the champion's own at its gate
    drift: tuple[DriftScore, ...] = ()
    quality: dict[str, float] = {}
    business: dict[str, float] = {}
    maturity: tuple[tuple[float, float], ...] = ()  # age in seconds, share of labels known by then
    skew: dict[str, float] = {}
    alerts: tuple[Alert, ...] = ()


class Decision(Artifact):
    """The result of `decide`: the action, its windows and the reason."""

    use_case: str
    at: Time
    action: Literal["retrain", "keep"]
    reason: str
    champion: str | None
    windows: tuple[Window, ...] = ()
    trigger: Window | None = None
    mode: Mode = "stateful"
    diagnosis: Diagnosis | None = None  # None if nothing was diagnosed; rows of earlier versions hold "unknown" then
    alerts: tuple[str, ...] = ()

    @property
    def retrain_key(self) -> str:
        """The digest of use case, champion and end of the trigger window. Each key has one run."""
        end = self.trigger.end.isoformat() if self.trigger else None
        return sha256(canonical_json((self.use_case, self.champion, end)).encode())[:16]

    @property
    def id(self) -> str:
        return self.content_digest()[:16]


class MonitoredWindow(Artifact):
    """A monitored window of the present champion, and whether it alerted."""

    window: Window
    alerted: bool


class PolicyState(Artifact):
    """The state of a use case in the ledger at one instant, as `decide` needs it."""

    use_case: str
    champion: str | None = None  # release id; None: nothing was promoted yet
    champion_cursor: Time | None = None  # rows from here on are new to the champion
    champion_since: Time | None = None
    new_rows: int = 0  # matured rows since the champion's cursor
    running: bool = False  # a retrain of this use case holds a live lease
    recent: tuple[MonitoredWindow, ...] = ()  # of this champion, oldest first
    quarantined: tuple[Window, ...] = ()  # diagnosed as broken data, under any champion, ending after the cursor
    last_retrain: Decision | None = None  # the newest decision to retrain, under any champion
    answered: Time | None = None  # the end of the newest trigger for which a retrain of this champion was decided
    last_retrain_state: Literal["pending", "promoted", "held", "rejected", "failed"] | None = None


class Promotion(Artifact):
    """One row of the ledger's audit chain. The row is the commit; aliases and the Serve config are projections."""

    use_case: str
    version: int
    release: Release
    previous: str | None
    action: Literal["promote", "rollback"]
    verdict: Verdict | None
    reason: str
    actor: str
    at: Time
    chain: str  # sha256 of the previous row's chain + this row's content
