"""Retraining: ask the policy, start the pipeline, show the state of each use case."""

from __future__ import annotations

from datetime import datetime, timedelta

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.ledger import Ledger, lease
from evermodel.records import Decision, Release, Window
from evermodel.retraining import planning, policy
from evermodel.use_case import UseCase
from evermodel.workflow import runs
from evermodel.workflow.project import Project


def decide(project: Project, reference: str, *, now: datetime) -> Decision:
    """Ask the policy and record its decision. Asking twice gives the same row."""
    _, case = project.find(reference)
    ledger = project.ledger()
    lease.reap_leases(ledger, case.name, now=now)
    new_rows = count_new_rows(project, case, ledger.champion(case.name), now)
    state = ledger.policy_state(case, now=now, new_rows=new_rows)
    if (due := policy.make_schedule_alert(case, state, now=now)) is not None:
        ledger.record_alert(due, now=now)
    alerts = ledger.alerts(case.name, champion=state.champion)
    return ledger.record_decision(policy.decide(case, alerts, state, now=now))


def count_new_rows(project: Project, case: UseCase, champion: Release | None, now: datetime) -> int:
    """Matured rows that the champion hasn't been trained on."""
    start = champion.cursor if champion else None
    end = now - timedelta(microseconds=case.maturity - 1)  # a row is matured at the instant its delay is over
    if start is None or start >= end:
        return 0
    return project.count_rows(case, Window(start=start, end=end))


def retrain(
    project: Project, reference: str, *, windows: str, mode: str, reason: str, now: datetime
) -> dict[str, object]:
    """Run the training pipeline to its end; the run's row of the ledger: key, state, release, verdict, reasons, log.

    If alerts asked for a retrain and the run trains on their window, the manifest names that window as its trigger.
    """
    from evermodel.execution.launch import launch, training_parameters
    from evermodel.parsing import parse_windows

    plan = runs.plan(
        project, reference, now=now, windows=parse_windows(windows), mode=planning.parse_mode(mode), reason=reason
    )
    parameters = training_parameters(
        use_case=plan.use_case_uri,
        windows=windows,
        mode=mode,
        reason=plan.reason,
        now=now,
        key=plan.key,
        trigger=planning.answered_trigger(plan, project.ledger().decisions(plan.use_case)),
    )
    done = launch(project.profile, "training", parameters, log_name=f"training-{plan.key}")
    run = next((one for one in project.ledger().runs(plan.use_case) if one.key == plan.key), None)
    if run is None:
        raise EvermodelError(f"run {plan.key} wasn't started: another run of {plan.use_case} is in progress")
    return {"key": run.key, "state": run.state, **run.result, "log": done.log}


def status(project: Project, reference: str | None, *, now: datetime) -> list[dict[str, object]]:
    """Champion, its age in days, alerts and the last run, of each use case of the project."""
    ledger = project.ledger()
    paths = storage.list_files(project.profile.root / "use_cases", suffix=".yaml")
    cases = [project.find(reference or path)[1] for path in ([reference] if reference else paths)]
    return [_status(ledger, case, now) for case in cases]


def _status(ledger: Ledger, case: UseCase, now: datetime) -> dict[str, object]:
    promotions = ledger.promotions(case.name)
    champion = ledger.champion(case.name)
    runs = ledger.runs(case.name)
    age = (now - promotions[-1].at) / timedelta(days=1) if promotions else None
    return {
        "use_case": case.name,
        "champion": champion.id if champion else None,
        "age_days": round(age, 1) if age is not None else None,
        "promotions": len(promotions),
        "alerts": len(ledger.alerts(case.name, champion=champion.id)) if champion else 0,
        "decisions": len(ledger.decisions(case.name)),
        "last_run": f"{runs[-1].key} {runs[-1].state}" if runs else None,
    }
