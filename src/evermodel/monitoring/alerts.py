"""Alerts: how the findings of a window become alerts.

An alert's kind says where something was found: data_quality, feature_drift, prediction_drift or performance. All alerts
of a window have the same diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from evermodel.monitoring.diagnosis import WindowFindings, base_moved, diagnose, inputs_moved, is_prediction
from evermodel.monitoring.drift import Reference
from evermodel.records import Alert, AlertKind, DriftScore, Window
from evermodel.use_case import UseCase


def build_alerts(
    use_case: UseCase,
    answered: pa.Table,
    reference: Reference,
    found: WindowFindings,
    *,
    window: Window,
    champion: str | None,
    rows: int,
) -> tuple[Alert, ...]:
    """The alerts of a window; none if nothing was found. answered: its rows without fallback answers, rows: with them."""
    evidence_by_kind = _alert_evidence(use_case, reference, found)
    if not evidence_by_kind:
        return ()
    diagnosis, numbers = diagnose(use_case, answered, reference, found)
    return tuple(
        Alert(
            use_case=use_case.name,
            kind=kind,
            window=window,
            champion=champion,
            diagnosis=diagnosis,
            evidence={"rows": rows, **evidence, "diagnosis": numbers},
        )
        for kind, evidence in evidence_by_kind.items()
    )


def _alert_evidence(use_case: UseCase, reference: Reference, found: WindowFindings) -> dict[AlertKind, dict[str, Any]]:
    """The kinds of alert that the findings justify, each with its numbers."""
    evidence: dict[AlertKind, dict[str, Any]] = {}
    if found.faults:
        evidence["data_quality"] = {"quality": dict(found.faults)}
    if inputs_moved(use_case, reference, found.drift):
        evidence["feature_drift"] = _drift_evidence(found.drift, prediction=False)
    if any(item.drifted and is_prediction(item.column) for item in found.drift):
        evidence["prediction_drift"] = _drift_evidence(found.drift, prediction=True)
    bases = {item.objective: item.evidence() for item in found.comparisons if base_moved(item)}
    if found.performance.dropped or bases:
        evidence["performance"] = found.performance.evidence() | ({"base_rates": bases} if bases else {})
    return evidence


def _drift_evidence(drift: Sequence[DriftScore], *, prediction: bool) -> dict[str, Any]:
    """Score and method of each drifted column, the threshold, and the number of columns that could be scored."""
    scored = [item for item in drift if item.drifted is not None and is_prediction(item.column) == prediction]
    moved = [item for item in scored if item.drifted]
    return {
        "columns": {item.column: item.score for item in moved},
        "methods": {item.column: item.method for item in moved},
        "threshold": moved[0].threshold,
        "known": len(scored),
    }
