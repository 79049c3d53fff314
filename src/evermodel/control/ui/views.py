"""What the ledger says of a use case, put together as a page or a program reads it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from evermodel.control.service import Service
from evermodel.ledger import Run
from evermodel.records import Alert
from evermodel.use_case import UseCase


def overview(service: Service) -> list[dict[str, Any]]:
    """One row a use case: champion, its age, the newest figure, open alerts, the last decision and run. Those with a
    champion come first."""
    rows = [_row(service, case) for case in service.cases().values()]
    return sorted(rows, key=lambda row: (row["champion"] is None, row["use_case"]))


def _row(service: Service, case: UseCase) -> dict[str, Any]:
    ledger, name = service.ledger, case.name
    promotions, decisions, runs = ledger.promotions(name), ledger.decisions(name), ledger.runs(name)
    champion = promotions[-1].release.id if promotions else None
    measured = [window for window in ledger.monitoring_reports(name) if window.performance is not None]
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
    newest = max(answered, default=None)
    alerts = service.ledger.alerts(name, champion=champion)
    return [alert for alert in alerts if newest is None or alert.window.end > newest]


def experiments(service: Service, name: str) -> dict[str, Any]:
    """The arms that serving has live: which release, which share of the units, or a shadow of the champion."""
    status = service.live()
    case = (status.get("use_cases") or {}).get(name) or {}
    return {
        "release": case.get("release"),
        "since": case.get("since"),
        "weights": case.get("weights") or {},
        "arms": case.get("arms") or {},
        "error": case.get("error") or status.get("error"),
    }


def audit(service: Service, name: str) -> dict[str, Any]:
    """Whether the chain over the promotion rows is whole, and its newest link."""
    problems = service.ledger.verify_chain(name)
    promotions = service.ledger.promotions(name)
    return {
        "whole": not problems,
        "problems": problems,
        "rows": len(promotions),
        "chain": promotions[-1].chain if promotions else None,
    }


def candidates(service: Service, name: str) -> list[dict[str, Any]]:
    """Runs whose release was judged against the present champion and didn't take its place, newest first."""
    ledger = service.ledger
    champion = ledger.champion(name)
    promoted = {row.release.id for row in ledger.promotions(name)}
    found = []
    for run in reversed(ledger.runs(name)):
        release = run.result.get("release")
        if not release or run.champion != (champion.id if champion else None):
            continue
        verdict = ledger.verdict(name, release)
        if verdict is not None and (release not in promoted or run.state != "promoted"):
            found.append({"key": run.key, "release": release, "verdict": verdict, "left": release in promoted})
    return found


def page(service: Service, name: str, *, rows: int = 25) -> dict[str, Any]:
    """All that the page of a use case shows."""
    case, ledger = service.case(name), service.ledger
    promotions = ledger.promotions(name)
    champion = promotions[-1].release if promotions else None
    windows, alerts = ledger.monitoring_reports(name), ledger.alerts(name)
    measured = [window for window in windows if window.performance is not None]
    previous = ledger.previous(name)
    return {
        "case": case,
        "champion": champion,
        "since": promotions[-1].at if promotions else None,
        "age": age(service.clock() - promotions[-1].at) if promotions else None,
        "previous": previous,
        "newest": measured[-1] if measured else None,
        "windows": windows,
        "alerts": alerts,
        "recent_alerts": list(reversed(alerts))[:rows],
        "open_alerts": open_alerts(service, name, champion.id if champion else None),
        "promotions": promotions,
        "recent_promotions": list(reversed(promotions))[:rows],
        "decisions": list(reversed(ledger.decisions(name)))[:rows],
        "runs": [(run, _took(run)) for run in list(reversed(ledger.runs(name)))[:rows]],
        "running": [run for run in ledger.runs(name) if run.state == "running"],
        "errors": list(reversed(ledger.errors(name)))[:5],
        "audit": audit(service, name),
        "experiments": experiments(service, name),
        "candidates": candidates(service, name),
    }


def _took(run: Run) -> str:
    return age(run.finished - run.started) if run.finished is not None else ""


def age(span: timedelta) -> str:
    """A duration as people say it: the two largest units."""
    seconds = max(int(span.total_seconds()), 0)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
