"""Reads the ledger and serving's status for one use case or all: the content of pages, API answers and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from evermodel.control.service import Service
from evermodel.records import Alert
from evermodel.use_case import UseCase

Row = TypeVar("Row")


def overview(service: Service) -> list[dict[str, Any]]:
    """One row for each use case: champion, its age, newest metric, open alerts, last decision and last run.

    Use cases with a champion come first.
    """
    rows = [_overview_row(service, case) for case in service.use_cases().values()]
    return sorted(rows, key=lambda row: (row["champion"] is None, row["use_case"]))


def _overview_row(service: Service, case: UseCase) -> dict[str, Any]:
    ledger, name = service.ledger, case.name
    promotions, decisions, runs = ledger.promotions(name), ledger.decisions(name), ledger.runs(name)
    champion = promotions[-1].release.id if promotions else None
    measured = [report for report in ledger.monitoring_reports(name) if report.performance is not None]
    return {
        "use_case": name,
        "description": case.description,
        "champion": champion,
        "since": promotions[-1].at.isoformat() if promotions else None,
        "age_seconds": (service.clock() - promotions[-1].at).total_seconds() if promotions else None,
        "promotions": len(promotions),
        "metric": case.evaluation.metric,
        "performance": measured[-1].performance if measured else None,
        "reference": measured[-1].reference if measured else None,
        "open_alerts": len(open_alerts(service, name, champion)),
        "decision": decisions[-1].action if decisions else None,
        "reason": decisions[-1].reason if decisions else None,
        "last_run": {"key": runs[-1].key, "state": runs[-1].state} if runs else None,
    }


def open_alerts(service: Service, name: str, champion: str | None) -> list[Alert]:
    """Alerts against the champion that no retrain has answered."""
    if champion is None:
        return []
    answered = [
        decision.trigger.end
        for decision in service.ledger.decisions(name)
        if decision.action == "retrain" and decision.champion == champion and decision.trigger is not None
    ]
    last_answered = max(answered, default=None)
    alerts = service.ledger.alerts(name, champion=champion)
    return [alert for alert in alerts if last_answered is None or alert.window.end > last_answered]


def experiments(service: Service, name: str) -> dict[str, Any]:
    """The arms that serving has live: each one's release and its share of the units, or `shadow`."""
    status = service.serving_status()
    case = (status.get("use_cases") or {}).get(name) or {}
    return {
        "release": case.get("release"),
        "since": case.get("since"),
        "weights": case.get("weights") or {},
        "arms": case.get("arms") or {},
        "error": case.get("error") or status.get("error"),
    }


def audit(service: Service, name: str) -> dict[str, Any]:
    """Whether the audit chain over the promotion rows is whole, and its newest link."""
    problems = service.ledger.verify_chain(name)
    promotions = service.ledger.promotions(name)
    return {
        "whole": not problems,
        "problems": problems,
        "rows": len(promotions),
        "chain": promotions[-1].chain if promotions else None,
    }


def candidates(service: Service, name: str) -> list[dict[str, Any]]:
    """Runs whose release was judged against the present champion and did not replace it, newest first."""
    ledger = service.ledger
    champion = ledger.champion(name)
    promoted = {row.release.id for row in ledger.promotions(name)}
    rows = []
    for run in reversed(ledger.runs(name)):
        release = run.result.get("release")
        if not release or run.champion != (champion.id if champion else None):
            continue
        verdict = ledger.verdict(name, release)
        if verdict is not None and (release not in promoted or run.state != "promoted"):
            rows.append({"key": run.key, "release": release, "verdict": verdict, "rolled_back": release in promoted})
    return rows


def use_case_page(service: Service, name: str, *, limit: int = 25) -> dict[str, Any]:
    """All that the page of a use case shows; the newest `limit` rows of each table, newest first."""
    case, ledger = service.use_case(name), service.ledger
    promotions, runs = ledger.promotions(name), ledger.runs(name)
    champion = promotions[-1].release if promotions else None
    reports, alerts = ledger.monitoring_reports(name), ledger.alerts(name)
    measured = [report for report in reports if report.performance is not None]
    return {
        "case": case,
        "champion": champion,
        "since": promotions[-1].at if promotions else None,
        "age_seconds": (service.clock() - promotions[-1].at).total_seconds() if promotions else None,
        "previous": ledger.previous(name),
        "newest": measured[-1] if measured else None,
        "reports": reports,
        "alerts": alerts,
        "recent_alerts": _newest(alerts, limit),
        "open_alerts": open_alerts(service, name, champion.id if champion else None),
        "promotions": promotions,
        "recent_promotions": _newest(promotions, limit),
        "decisions": _newest(ledger.decisions(name), limit),
        "runs": _newest(runs, limit),
        "running": [run for run in runs if run.state == "running"],
        "errors": _newest(ledger.errors(name), 5),
        "audit": audit(service, name),
        "experiments": experiments(service, name),
        "candidates": candidates(service, name),
    }


def _newest(rows: Sequence[Row], limit: int) -> list[Row]:
    return list(reversed(rows))[:limit]
