"""The result of a backtest as JSON: windows with their metric, alerts, training runs and totals of each policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from evermodel.backtest.project import BacktestProject
from evermodel.evaluation.metrics import metric_of
from evermodel.monitoring.cohorts import mask_unmatured
from evermodel.records import Alert, Decision, EvaluationReport, Plan, Release, TrainingManifest, Window


@dataclass(frozen=True)
class TrainingRun:
    """One training run of a policy, and the manifests of its bundles."""

    decision: Decision
    plan: Plan
    release: Release
    report: EvaluationReport
    manifests: tuple[TrainingManifest, ...]

    @property
    def word(self) -> str:
        return self.report.verdict.word

    @property
    def seconds(self) -> float:
        """Of optimisation, over all objectives."""
        return sum(manifest.seconds for manifest in self.manifests)

    @property
    def rows_trained(self) -> int:
        """Rows × epochs over all objectives, rehearsed rows included."""
        return sum(manifest.rows_trained for manifest in self.manifests)


def describe_policy(policy: str, project: BacktestProject, runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """Everything that happened under one policy."""
    windows = [_describe_window(project, window, *served) for window, served in project.served.items()]
    judged = [(window["metric"], window["rows"]) for window in windows if window["metric"] is not None]
    rows = sum(count for _, count in judged)
    return {
        "policy": policy,
        "windows": windows,
        "alerts": [_describe_alert(alert) for alert in project.ledger().alerts(project.case.name)],
        "retrains": [_describe_run(run) for run in runs],
        "totals": {
            "metric": sum(value * count for value, count in judged) / rows if rows else None,
            "retrains": len(runs),
            "rows_trained": sum(run.rows_trained for run in runs),
            "seconds_trained": sum(run.seconds for run in runs),
        },
    }


def _describe_window(project: BacktestProject, window: Window, served: pa.Table, release: str) -> dict[str, Any]:
    """The window's metric with all labels that became known; None if some are still missing at the end."""
    case, known = project.case, project.history.labels_known_until(project.case)
    matured = window.start + timedelta(microseconds=case.maturity) <= known
    value = metric_of(case, mask_unmatured(case, served, now=known)) if matured else None
    return {**_span(window), "rows": served.num_rows, "metric": value, "champion": release}


def _describe_alert(alert: Alert) -> dict[str, Any]:
    return {
        **_span(alert.window),
        "kind": alert.kind,
        "diagnosis": alert.diagnosis,
        "champion": alert.champion,
        "evidence": alert.evidence,
    }


def _describe_run(run: TrainingRun) -> dict[str, Any]:
    manifest = run.manifests[0]
    return {
        "trigger": _span(run.decision.trigger) if run.decision.trigger else None,
        "trained_on": [_span(window) for window in manifest.windows],
        "parent": run.plan.champion.id if run.plan.champion else None,
        "state": run.decision.mode,
        "step0_loss": _mean([manifest.step0_loss for manifest in run.manifests]),
        "parent_loss": _mean([manifest.parent_loss for manifest in run.manifests]),
        "rows": manifest.rows,
        "rehearsal_rows": manifest.rehearsal_rows,
        "rehearsal_window": _span(manifest.rehearsal_window) if manifest.rehearsal_window else None,
        "gate_window": _span(manifest.gate_window) if manifest.gate_window else None,
        "rows_trained": run.rows_trained,
        "seconds": run.seconds,
        "release": run.release.id,
        "at": _iso(run.decision.at),
        "verdict": run.word,
        "reasons": list(run.report.verdict.reasons),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _span(window: Window) -> dict[str, str]:
    return {"start": _iso(window.start), "end": _iso(window.end)}


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S") + (f".{time.microsecond:06d}" if time.microsecond else "") + "Z"
