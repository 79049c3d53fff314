"""The ledger over HTTP, as JSON: rows to read, and actions to start.

    GET  /api/v1/use-cases                                          GET  /api/v1/{use_case}/{alerts|decisions|leases|runs|…}
    POST /api/v1/{use_case}/{retrain|promote|rollback|retry-rollout}   POST /api/v1/alertmanager

An error that the request caused is answered with `code`, `field` and `reason`; an error of the service without details.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Query, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from evermodel.control import actions, queries
from evermodel.control.actions import RunLauncher
from evermodel.control.api.webhook import Notification, receive
from evermodel.control.service import RolloutController, Service
from evermodel.errors import ConflictError
from evermodel.ledger import Ledger
from evermodel.parsing import parse_windows
from evermodel.records import Artifact

ReadRows = Callable[[Ledger, str], Sequence[Artifact]]
ROWS: dict[str, ReadRows] = {
    "alerts": lambda ledger, name: ledger.alerts(name),
    "decisions": lambda ledger, name: ledger.decisions(name),
    "leases": lambda ledger, name: ledger.leases(name),
    "runs": lambda ledger, name: ledger.runs(name),
    "promotions": lambda ledger, name: ledger.promotions(name),
    "windows": lambda ledger, name: ledger.monitoring_reports(name),
    "errors": lambda ledger, name: ledger.errors(name),
}


class ActionRequest(BaseModel):
    """Every action needs a reason; the ledger keeps it with the caller's name."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    reason: str = Field(min_length=1, max_length=500)


class RetrainRequest(ActionRequest):
    windows: str = Field("", description="START..END, separated by commas; empty: all rows new to the champion")
    mode: str = Field("", description="stateful or from_scratch; empty: stateful if there is a champion")


class PromoteRequest(ActionRequest):
    run: str = Field(min_length=1, max_length=64, description="key of the run whose release is promoted")
    override: bool = Field(False, description="promote although the gate forbids it, for the reason given")


class RollbackRequest(ActionRequest):
    expected_champion: str | None = Field(
        None,
        validation_alias=AliasChoices("expected_champion", "leave"),
        description="release id of the champion to replace, refused if it is another; absent: the present champion",
    )


def add_api(app: FastAPI, service: Service, launcher: RunLauncher, rollout: RolloutController | None) -> None:
    """Adds the API's routes to the app."""
    _add_reading(app, service)
    _add_actions(app, service, launcher, rollout)

    @app.post("/api/v1/alertmanager")
    def alertmanager(notification: Notification) -> dict[str, Any]:
        return receive(service, launcher, notification)


def _add_reading(app: FastAPI, service: Service) -> None:
    @app.get("/api/v1/use-cases")
    def use_cases() -> list[dict[str, Any]]:
        return queries.overview(service)

    @app.get("/api/v1/{use_case}/experiments")
    def experiments(use_case: str) -> dict[str, Any]:
        service.use_case(use_case)
        return queries.experiments(service, use_case)

    @app.get("/api/v1/{use_case}/audit")
    def audit(use_case: str) -> dict[str, Any]:
        service.use_case(use_case)
        return queries.audit(service, use_case)

    for kind, read in ROWS.items():
        _add_rows(app, service, kind, read)


def _add_rows(app: FastAPI, service: Service, kind: str, read: ReadRows) -> None:
    @app.get(f"/api/v1/{{use_case}}/{kind}", operation_id=kind)
    def rows(use_case: str, limit: int = Query(100, ge=1, le=10_000)) -> list[dict[str, Any]]:
        """The newest rows, oldest first."""
        service.use_case(use_case)
        return [row.model_dump(mode="json") for row in read(service.ledger, use_case)[-limit:]]


def _add_actions(app: FastAPI, service: Service, launcher: RunLauncher, rollout: RolloutController | None) -> None:
    @app.post("/api/v1/{use_case}/retrain", status_code=202)
    def retrain(use_case: str, body: RetrainRequest, request: Request) -> dict[str, Any]:
        decision = actions.retrain(
            service,
            launcher,
            use_case,
            actor=request.state.caller.name,
            reason=body.reason,
            windows=parse_windows(body.windows),
            mode=body.mode,
        )
        return {"key": decision.retrain_key, "windows": [str(window) for window in decision.windows]}

    @app.post("/api/v1/{use_case}/promote")
    def promote(use_case: str, body: PromoteRequest, request: Request) -> dict[str, Any]:
        actor = request.state.caller.name
        release, report = actions.promote(
            service, use_case, body.run, actor=actor, reason=body.reason, override=body.override
        )
        return {"champion": release.id, "verdict": report.verdict.word}

    @app.post("/api/v1/{use_case}/rollback")
    def rollback(use_case: str, body: RollbackRequest, request: Request) -> dict[str, Any]:
        actor = request.state.caller.name
        row = actions.rollback(
            service, use_case, actor=actor, reason=body.reason, expected_champion=body.expected_champion
        )
        return {"champion": row.release.id, "previous": row.previous, "version": row.version}

    @app.post("/api/v1/{use_case}/retry-rollout", status_code=202)
    def retry_rollout(use_case: str, body: ActionRequest, request: Request) -> dict[str, Any]:
        """Tries a champion that failed to go live once more."""
        service.use_case(use_case)
        if rollout is None:
            raise ConflictError("no rollout runs here: serving reads its champions from the ledger itself")
        message = f"retry asked for by {request.state.caller.name}: {body.reason}"
        actions.record_error(service, use_case, "reconciler", message)
        rollout.retry(use_case)
        return {"use_case": use_case}
