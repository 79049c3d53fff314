"""Alertmanager's webhook (payload version 4): records firing alerts in the ledger and asks the policy for a decision.

Labels: `use_case` (required), `kind` (default `performance`; `manual` is a person's request, which the policy does not
weigh), `diagnosis` (default `unknown`). Alertmanager repeats an alert while it fires, so the ledger's alert depends only
on what stays the same: its window is the monitoring window that ends at `startsAt`, its champion the one at that time.
The ledger keeps one alert for each kind, window and champion.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from evermodel import workflow
from evermodel.control.actions import RunLauncher
from evermodel.control.service import Service, UnknownUseCaseError
from evermodel.records import Alert, AlertKind, Diagnosis, Promotion, Time, Window
from evermodel.use_case import UseCase

MAX_ALERTS = 1000


class AlertmanagerAlert(BaseModel):
    """One alert as Alertmanager sends it, without the fields that are not used."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    startsAt: Time
    fingerprint: str = Field(min_length=1, max_length=64)


class Notification(BaseModel):
    """The body of Alertmanager's request."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal["4"]
    alerts: tuple[AlertmanagerAlert, ...] = Field(max_length=MAX_ALERTS)


def receive(service: Service, launcher: RunLauncher, notification: Notification) -> dict[str, Any]:
    """Records the firing alerts, asks the policy once for each use case among them, and starts the decided runs.

    An invalid alert is refused alone; the others are recorded. The same notification again changes nothing.
    """
    outcomes: list[dict[str, Any]] = []
    use_cases: dict[str, None] = {}
    for sent in notification.alerts:
        outcome, reason, alert = _record(service, sent)
        outcomes.append({"fingerprint": sent.fingerprint, "outcome": outcome, "reason": reason, "alert": alert})
        if alert is not None:
            use_cases[sent.labels["use_case"]] = None
    return {"alerts": outcomes, "decisions": [_decide(service, launcher, name) for name in use_cases]}


def _record(service: Service, sent: AlertmanagerAlert) -> tuple[str, str, str | None]:
    """The outcome, its reason, and the id of the ledger's alert if there is one."""
    if sent.status == "resolved":
        return "ignored", "the alert is resolved; what it led to stays", None
    try:
        case = service.use_case(sent.labels.get("use_case", ""))
        alert = to_ledger_alert(case, sent, service.ledger.promotions(case.name))
    except (UnknownUseCaseError, ValueError) as error:
        return "refused", str(error), None
    is_new = service.ledger.record_alert(alert, now=service.clock())
    return ("recorded" if is_new else "known"), "", alert.id


def to_ledger_alert(case: UseCase, sent: AlertmanagerAlert, promotions: Iterable[Promotion]) -> Alert:
    """The ledger's form of an alert: equal for the same fingerprint and start, whenever it arrives."""
    kind = _check_label("kind", sent.labels.get("kind", "performance"), get_args(AlertKind))
    diagnosis = _check_label("diagnosis", sent.labels.get("diagnosis", "unknown"), get_args(Diagnosis))
    champion = None
    for row in promotions:
        if row.at <= sent.startsAt:
            champion = row.release.id
    window = Window(start=sent.startsAt - timedelta(microseconds=case.monitoring.window_length), end=sent.startsAt)
    return Alert(
        use_case=case.name,
        kind=kind,
        window=window,
        champion=champion,
        diagnosis=diagnosis,
        evidence={
            "source": "alertmanager",
            "alertname": sent.labels.get("alertname", ""),
            "fingerprint": sent.fingerprint,
            "starts_at": sent.startsAt.isoformat(),
            "labels": dict(sorted(sent.labels.items())),
            "annotations": dict(sorted(sent.annotations.items())),
        },
    )


def _check_label(label: str, value: str, valid: tuple[Any, ...]) -> Any:
    if value not in valid:
        raise ValueError(f"label {label} is {value!r}; valid: {', '.join(valid)}")
    return value


def _decide(service: Service, launcher: RunLauncher, name: str) -> dict[str, Any]:
    decision = workflow.decide(service.project, name, now=service.clock())
    is_retrain = decision.action == "retrain"
    return {
        "use_case": name,
        "action": decision.action,
        "reason": decision.reason,
        "retrain_key": decision.retrain_key if is_retrain else None,
        "started": is_retrain and launcher.start(decision),
    }
