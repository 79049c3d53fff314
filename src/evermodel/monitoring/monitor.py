"""One window of answers, looked at once: quality, drift, performance, money, a diagnosis, and the alerts they raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from evermodel.evaluation import metrics
from evermodel.monitoring import cohorts, quality
from evermodel.monitoring.column_counts import ColumnReference
from evermodel.monitoring.diagnosis import base_moved, compare_labels, diagnose, inputs_moved, is_prediction
from evermodel.monitoring.drift import Reference, drift_scores
from evermodel.monitoring.label_shift import Comparison
from evermodel.monitoring.performance import Performance, business, estimate, first_classes, judge
from evermodel.records import Alert, AlertKind, DriftScore, MonitoringReport, Window
from evermodel.use_case import UseCase


def monitor(
    use_case: UseCase,
    served: pa.Table,
    reference: Reference,
    *,
    window: Window,
    now: datetime,
    champion: str | None,
    skew: Mapping[str, float] | None = None,
) -> MonitoringReport:
    """The report of a window's served rows, labels null where unmatured at `now`.

    An alert's kind is where it was seen (data_quality, feature_drift, prediction_drift, performance); its diagnosis is
    one for the window. Inputs are judged on all rows but fallback answers, scores and labels on the champion's own
    (`release`, where the table says). Where too little is known a figure is None, a drift unknown, and no alert is raised.
    """
    settings = use_case.monitoring
    answered = cohorts.by_models(served)
    own = cohorts.of_release(answered, champion)  # inputs are everybody's; scores and errors are a model's own

    first = first_classes(own)
    for objective in use_case.objectives if first is not None else ():
        if use_case.label(objective.label).type == "category":
            own = own.append_column(f"class:{objective.name}", first)

    def drift_of(columns: Sequence[ColumnReference], rows: pa.Table) -> list[DriftScore]:
        options = settings.drift.method, settings.drift.threshold, settings.minimum_rows
        return drift_scores(columns, rows, method=options[0], threshold=options[1], minimum_rows=options[2])

    drift = (*drift_of(reference.columns, answered), *drift_of(reference.scores, own))
    faults = quality.findings(use_case, answered, reference, now=now)
    performance = judge(use_case, own, reference, now=now)
    comparisons = compare_labels(use_case, own, reference)
    raised = _raised(use_case, reference, drift, faults, performance, comparisons)
    alerts: tuple[Alert, ...] = ()
    if raised:
        word, numbers = diagnose(use_case, answered, reference, drift, faults, performance, comparisons)
        alerts = tuple(
            Alert(
                use_case=use_case.name,
                kind=kind,
                window=window,
                champion=champion,
                diagnosis=word,
                evidence={"rows": served.num_rows, **evidence, "diagnosis": numbers},
            )
            for kind, evidence in raised
        )
    label = use_case.label(metrics.label_of(use_case))
    return MonitoringReport(
        use_case=use_case.name,
        window=window,
        champion=champion,
        rows=served.num_rows,
        matured_rows=performance.rows,
        metric=performance.metric,
        performance=performance.value,
        estimate=estimate(use_case, own, reference),
        reference=reference.performance,
        drift=drift,
        quality={**quality.shares(served, reference), **faults},
        business=business(use_case, served, now=now),
        maturity=cohorts.maturity_curve(served, label.name, now=now),
        skew=dict(skew or {}),
        alerts=alerts,
    )


def _raised(
    use_case: UseCase,
    reference: Reference,
    drift: Sequence[DriftScore],
    faults: Mapping[str, float],
    performance: Performance,
    comparisons: Sequence[Comparison],
) -> list[tuple[AlertKind, dict[str, Any]]]:
    """The kinds of alert that the window raises, with the numbers that did it."""
    raised: list[tuple[AlertKind, dict[str, Any]]] = []
    if faults:
        raised.append(("data_quality", {"quality": dict(faults)}))
    if inputs_moved(use_case, reference, drift):
        raised.append(("feature_drift", _moved(drift, prediction=False)))
    if any(item.drifted and is_prediction(item.column) for item in drift):
        raised.append(("prediction_drift", _moved(drift, prediction=True)))
    bases = {item.objective: item.evidence() for item in comparisons if base_moved(item)}
    if performance.dropped or bases:
        raised.append(("performance", performance.evidence() | ({"base_rates": bases} if bases else {})))
    return raised


def _moved(drift: Sequence[DriftScore], *, prediction: bool) -> dict[str, Any]:
    """{columns: {name: score} of those that drifted, method and threshold, of how many}."""
    known = [item for item in drift if item.drifted is not None and is_prediction(item.column) == prediction]
    moved = [item for item in known if item.drifted]
    return {
        "columns": {item.column: item.score for item in moved},
        "methods": {item.column: item.method for item in moved},
        "threshold": moved[0].threshold,
        "known": len(known),
    }
