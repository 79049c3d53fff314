"""Monitor one window of served rows: quality, drift, performance, business figures, and the alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from evermodel.evaluation.samples import label_of
from evermodel.monitoring import cohorts, quality
from evermodel.monitoring.alerts import build_alerts
from evermodel.monitoring.column_counts import ColumnReference
from evermodel.monitoring.diagnosis import WindowFindings, compare_labels
from evermodel.monitoring.drift import Reference, drift_scores
from evermodel.monitoring.performance import best_classes, business_figures, estimate_metric, measure_performance
from evermodel.records import DriftScore, MonitoringReport, Window
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
    """The report of a window's served rows, with labels null if unmatured at `now`.

    Inputs are compared on all rows but fallback answers; scores and labels on the champion's own rows (`release`, if the
    table has it). If too little is known, a figure is None, a drift is unknown, and there is no alert.
    """
    answered = cohorts.without_fallbacks(served)
    own = _with_best_classes(use_case, cohorts.answered_by(answered, champion))
    found = WindowFindings(
        drift=(
            *_drift_scores(use_case, reference.columns, answered),
            *_drift_scores(use_case, reference.scores, own),
        ),
        faults=quality.find_faults(use_case, answered, reference, now=now),
        performance=measure_performance(use_case, own, reference, now=now),
        comparisons=compare_labels(use_case, own, reference),
    )
    alerts = build_alerts(use_case, answered, reference, found, window=window, champion=champion, rows=served.num_rows)
    performance = found.performance
    return MonitoringReport(
        use_case=use_case.name,
        window=window,
        champion=champion,
        rows=served.num_rows,
        matured_rows=performance.rows,
        metric=performance.metric,
        performance=performance.value,
        estimate=estimate_metric(use_case, own, reference),
        reference=reference.performance,
        drift=found.drift,
        quality={**quality.missing_shares(served, reference), **found.faults},
        business=business_figures(use_case, served, now=now),
        maturity=cohorts.maturity_curve(served, label_of(use_case), now=now),
        skew=dict(skew or {}),
        alerts=alerts,
    )


def _with_best_classes(use_case: UseCase, rows: pa.Table) -> pa.Table:
    """The rows with the column `class:<objective>` of each category objective, if they hold the order of classes."""
    best = best_classes(rows)
    for objective in use_case.objectives if best is not None else ():
        if use_case.label(objective.label).type == "category":
            rows = rows.append_column(f"class:{objective.name}", best)
    return rows


def _drift_scores(use_case: UseCase, columns: Sequence[ColumnReference], rows: pa.Table) -> list[DriftScore]:
    settings = use_case.monitoring
    return drift_scores(
        columns,
        rows,
        method=settings.drift.method,
        threshold=settings.drift.threshold,
        minimum_rows=settings.minimum_rows,
    )
