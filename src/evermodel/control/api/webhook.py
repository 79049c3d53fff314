"""Alertmanager's webhook (payload version 4): a firing alert becomes an alert of the ledger, and the policy is asked.

Labels say what it is about: `use_case` (needed), `kind` (`performance` where absent; `manual` is a person's word, which
the policy doesn't weigh), `diagnosis` (`unknown` where absent). Alertmanager sends an alert again and again while it
fires, so what it becomes depends only on what stays the same: its window is the monitoring window that ends at
`startsAt`, its champion the one of that instant. The ledger keeps one alert a kind, window and champion.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from evermodel import workflow
from evermodel.control.actions import Runs
from evermodel.control.service import Service, Unknown
from evermodel.records import Alert, AlertKind, Diagnosis, Promotion, Time, Window
from evermodel.use_case import UseCase

MAX_ALERTS = 1000


class Fired(BaseModel):
    """One alert as Alertmanager sends it; what it says beyond this is its own affair."""

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
    alerts: tuple[Fired, ...] = Field(max_length=MAX_ALERTS)


def receive(service: Service, runs: Runs, told: Notification) -> dict[str, Any]:
    """Record what fires, ask the policy once for each use case that it is about, and start what it decides.

    What is wrong with one alert is said of that one: the others count. Received again, it changes nothing.
    """
    outcomes: list[dict[str, Any]] = []
    touched: dict[str, None] = {}
    for fired in told.alerts:
        outcome, reason, alert = _record(service, fired)
        outcomes.append({"fingerprint": fired.fingerprint, "outcome": outcome, "reason": reason, "alert": alert})
        if alert is not None:
            touched[fired.labels["use_case"]] = None
    return {"alerts": outcomes, "decisions": [_decide(service, runs, name) for name in touched]}


def _record(service: Service, fired: Fired) -> tuple[str, str, str | None]:
    if fired.status == "resolved":
        return "ignored", "it is over: what it led to stands", None
    try:
        case = service.case(fired.labels.get("use_case", ""))
        alert = alert_of(case, fired, service.ledger.promotions(case.name))
    except (Unknown, ValueError) as error:
        return "refused", str(error), None
    new = service.ledger.record_alert(alert, now=service.clock())
    return ("recorded" if new else "known"), "", alert.id


def alert_of(case: UseCase, fired: Fired, promotions: Iterable[Promotion]) -> Alert:
    """What a firing alert is in the ledger: the same for the same fingerprint and start, whenever it comes."""
    kind = _one_of("kind", fired.labels.get("kind", "performance"), get_args(AlertKind))
    diagnosis = _one_of("diagnosis", fired.labels.get("diagnosis", "unknown"), get_args(Diagnosis))
    champion = None
    for row in promotions:
        if row.at <= fired.startsAt:
            champion = row.release.id
    window = Window(start=fired.startsAt - timedelta(microseconds=case.monitoring.window), end=fired.startsAt)
    return Alert(
        use_case=case.name,
        kind=kind,
        window=window,
        champion=champion,
        diagnosis=diagnosis,
        evidence={
            "source": "alertmanager",
            "alertname": fired.labels.get("alertname", ""),
            "fingerprint": fired.fingerprint,
            "starts_at": fired.startsAt.isoformat(),
            "labels": dict(sorted(fired.labels.items())),
            "annotations": dict(sorted(fired.annotations.items())),
        },
    )


def _one_of(label: str, value: str, valid: tuple[Any, ...]) -> Any:
    if value not in valid:
        raise ValueError(f"label {label} is {value!r}; valid: {', '.join(valid)}")
    return value


def _decide(service: Service, runs: Runs, name: str) -> dict[str, Any]:
    decision = workflow.decide(service.project, name, now=service.clock())
    started = decision.action == "retrain" and runs.start(decision)
    key = decision.retrain_key if decision.action == "retrain" else None
    return {
        "use_case": name,
        "action": decision.action,
        "reason": decision.reason,
        "retrain_key": key,
        "started": started,
    }
