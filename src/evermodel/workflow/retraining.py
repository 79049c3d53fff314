"""Retraining: ask the policy, start the pipeline, say where each use case stands."""

from __future__ import annotations

from datetime import datetime, timedelta

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.ledger import Ledger, lease
from evermodel.records import Decision, Plan, Release, Window
from evermodel.use_case import UseCase
from evermodel.workflow import runs
from evermodel.workflow.project import Project


def decide(project: Project, reference: str, *, now: datetime) -> Decision:
    """Ask the policy; its answer is recorded, and asking twice is the same row."""
    from evermodel.retraining.policy import decide as ask
    from evermodel.retraining.policy import schedule_alert

    _, case = project.find(reference)
    ledger = project.ledger()
    lease.tidy(ledger, case.name, now=now)
    standing = ledger.policy_state(case, now=now, new_rows=_new_rows(project, case, ledger.champion(case.name), now))
    if (due := schedule_alert(case, standing, now=now)) is not None:
        ledger.record_alert(due, now=now)
    alerts = ledger.alerts(case.name, champion=standing.champion)
    return ledger.record_decision(ask(case, alerts, standing, now=now))


def _new_rows(project: Project, case: UseCase, champion: Release | None, now: datetime) -> int:
    """Matured rows that the champion hasn't been trained on."""
    start = champion.cursor if champion else None
    end = now - timedelta(microseconds=case.maturity - 1)  # a row is matured at the instant its delay is over
    if start is None or start >= end:
        return 0
    window = Window(start=start, end=end)
    return int(project.log(case).read(case.predict.source, window=window, columns=["ingest_seq"]).num_rows)


def retrain(
    project: Project, reference: str, *, windows: str, mode: str, reason: str, now: datetime
) -> dict[str, object]:
    """Run the training pipeline to its end; the run as the ledger has it: key, state, release, verdict, reasons, log.

    Where alerts have asked for a retrain and the run trains on their window, its manifest names that as its trigger.
    """
    from evermodel.execution.launch import launch, training_parameters
    from evermodel.parsing import parse_windows

    plan = runs.plan(
        project, reference, now=now, windows=parse_windows(windows), mode=runs.mode_of(mode), reason=reason
    )
    parameters = training_parameters(
        use_case=plan.use_case_uri,
        windows=windows,
        mode=mode,
        reason=plan.reason,
        now=now,
        key=plan.key,
        trigger=_asked_for(project.ledger(), plan),
    )
    done = launch(project.profile, "training", parameters, log_name=f"training-{plan.key}")
    run = next((one for one in project.ledger().runs(plan.use_case) if one.key == plan.key), None)
    if run is None:
        raise EvermodelError(f"run {plan.key} wasn't started: another one of {plan.use_case} is running")
    return {"key": run.key, "state": run.state, **run.result, "log": done.log}


def _asked_for(ledger: Ledger, plan: Plan) -> Window | None:
    """The window of the alerts that the policy decided to retrain the champion for, where `plan` trains on all of it."""
    champion = plan.champion.id if plan.champion else None
    asked = [one for one in ledger.decisions(plan.use_case) if one.action == "retrain" and one.champion == champion]
    if not asked or not asked[-1].alerts or (window := asked[-1].trigger) is None:
        return None
    return window if any(one.start <= window.start and window.end <= one.end for one in plan.windows) else None


def status(project: Project, reference: str | None, *, now: datetime) -> list[dict[str, object]]:
    """Champion, its age in days, alerts against it and the last run, of each use case of the project."""
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
