"""The ledger over HTTP, as JSON: what is there to read, and what may be asked for.

    GET  /api/v1/use-cases                               GET  /api/v1/{use_case}/{alerts|decisions|leases|runs|…}
    POST /api/v1/{use_case}/{retrain|promote|rollback|project}   POST /api/v1/alertmanager

Whatever is wrong with a request is answered with `code`, `field` and `reason`; whatever is wrong with us opaquely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from evermodel.control import actions
from evermodel.control.actions import Runs
from evermodel.control.api.metrics import Projection
from evermodel.control.api.webhook import Notification, receive
from evermodel.control.service import Service
from evermodel.control.ui import views
from evermodel.errors import ConflictError
from evermodel.ledger import Ledger
from evermodel.parsing import parse_windows
from evermodel.records import Artifact

Kind = Callable[[Ledger, str], Sequence[Artifact]]
KINDS: dict[str, Kind] = {
    "alerts": lambda ledger, name: ledger.alerts(name),
    "decisions": lambda ledger, name: ledger.decisions(name),
    "leases": lambda ledger, name: ledger.leases(name),
    "runs": lambda ledger, name: ledger.runs(name),
    "promotions": lambda ledger, name: ledger.promotions(name),
    "windows": lambda ledger, name: ledger.monitoring_reports(name),
    "errors": lambda ledger, name: ledger.errors(name),
}


class Asked(BaseModel):
    """What every action takes: why. It is kept beside who."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    reason: str = Field(min_length=1, max_length=500)


class RetrainAsked(Asked):
    windows: str = Field("", description="START..END, comma between several; empty: all that is new to the champion")
    mode: str = Field("", description="stateful or from_scratch; empty: stateful where there is a champion")


class PromoteAsked(Asked):
    run: str = Field(min_length=1, max_length=64, description="key of the run whose release is promoted")
    override: bool = Field(False, description="promote against the gate, for the reason given")


class RollbackAsked(Asked):
    leave: str | None = Field(None, description="release id of the champion to be left; absent: the present one")


def add_api(app: FastAPI, service: Service, runs: Runs, projection: Projection | None) -> None:
    """The routes."""

    @app.get("/api/v1/use-cases")
    def use_cases() -> list[dict[str, Any]]:
        return views.overview(service)

    @app.post("/api/v1/alertmanager")
    def alertmanager(told: Notification) -> dict[str, Any]:
        return receive(service, runs, told)

    @app.get("/api/v1/{use_case}/experiments")
    def experiments(use_case: str) -> dict[str, Any]:
        service.case(use_case)
        return views.experiments(service, use_case)

    @app.get("/api/v1/{use_case}/audit")
    def audit(use_case: str) -> dict[str, Any]:
        service.case(use_case)
        return views.audit(service, use_case)

    for kind, read in KINDS.items():
        _add_kind(app, service, kind, read)

    @app.post("/api/v1/{use_case}/retrain", status_code=202)
    def retrain(use_case: str, asked: RetrainAsked, request: Request) -> dict[str, Any]:
        decision = actions.retrain(
            service,
            runs,
            use_case,
            actor=request.state.caller.name,
            reason=asked.reason,
            windows=parse_windows(asked.windows),
            mode=asked.mode,
        )
        return {"key": decision.retrain_key, "windows": [str(window) for window in decision.windows]}

    @app.post("/api/v1/{use_case}/promote")
    def promote(use_case: str, asked: PromoteAsked, request: Request) -> dict[str, Any]:
        who = request.state.caller.name
        release, report = actions.promote(
            service, use_case, asked.run, actor=who, reason=asked.reason, override=asked.override
        )
        return {"champion": release.id, "verdict": report.verdict.word}

    @app.post("/api/v1/{use_case}/rollback")
    def rollback(use_case: str, asked: RollbackAsked, request: Request) -> dict[str, Any]:
        who = request.state.caller.name
        row = actions.rollback(service, use_case, actor=who, reason=asked.reason, leave=asked.leave)
        return {"champion": row.release.id, "previous": row.previous, "version": row.version}

    @app.post("/api/v1/{use_case}/project", status_code=202)
    def project(use_case: str, asked: Asked, request: Request) -> dict[str, Any]:
        """Try a champion that serving didn't take once more."""
        service.case(use_case)
        if projection is None:
            raise ConflictError("champions aren't projected from here: serving watches the ledger itself")
        actions.note(service, use_case, "projector", f"asked again by {request.state.caller.name}: {asked.reason}")
        projection.again(use_case)
        return {"use_case": use_case}


def _add_kind(app: FastAPI, service: Service, kind: str, read: Kind) -> None:
    @app.get(f"/api/v1/{{use_case}}/{kind}", operation_id=kind)
    def rows(use_case: str, limit: int = Query(100, ge=1, le=10_000)) -> list[dict[str, Any]]:
        """The newest ones, oldest first."""
        service.case(use_case)
        return [row.model_dump(mode="json") for row in read(service.ledger, use_case)[-limit:]]
