"""A training run by its key: planned once, claimed once, and read back by the steps that follow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evermodel import storage
from evermodel.errors import InputError, nearest
from evermodel.ledger import lease
from evermodel.records import Decision, EvaluationReport, Mode, Plan, Release, TrainingSet, Window
from evermodel.retraining import planning
from evermodel.run_folder import RunFolder
from evermodel.workflow.project import Project


def plan(
    project: Project,
    reference: str,
    *,
    now: datetime,
    windows: Sequence[Window] = (),
    mode: Mode | None = None,
    trigger: Window | None = None,
    key: str = "",
    reason: str = "",
    parent: str = "champion",
    use_case_digest: str = "",
) -> Plan:
    """The plan of a run, from what the ledger says at this moment. See `planning.make_plan`.

    `parent`: `champion`, `none`, or the id of a release that was promoted once. InputError if the use case isn't the one
    of `use_case_digest`.
    """
    uri, case = project.find(reference)
    case.check_digest(use_case_digest, uri)
    ledger = project.ledger()
    champion = ledger.champion(case.name)
    return planning.make_plan(
        case,
        uri=uri,
        champion=champion,
        parent=planning.find_parent(case, parent, champion=champion, promotions=ledger.promotions(case.name)),
        now=now,
        data_version=project.data_version(case),
        windows=windows,
        mode=mode,
        trigger=trigger,
        key=key,
        reason=reason,
    )


def plan_decision(project: Project, decision: Decision) -> Plan:
    """The plan of the run that a decision asks for."""
    return plan(
        project,
        decision.use_case,
        now=decision.at,
        windows=decision.windows,
        mode=decision.mode,
        trigger=decision.trigger,
        key=decision.retrain_key,
        reason=decision.reason,
    )


def claim(project: Project, plan: Plan, *, owner: str, now: datetime) -> bool:
    """Claim the run's lease and start the run. False if a living owner holds it, or if the run is finished."""
    ledger = project.ledger()
    decided = [
        decision.id
        for decision in ledger.decisions(plan.use_case)
        if decision.action == "retrain" and decision.retrain_key == plan.key
    ]
    granted = lease.start_leased_run(
        ledger,
        plan.key,
        use_case=plan.use_case,
        decision_id=decided[0] if decided else None,
        owner=owner,
        now=now,
        seconds=project.profile.lease_seconds,
    )
    if granted:  # otherwise the plan in the folder is the lease holder's
        project.run_folder(plan).write_plan(plan)
    return granted


def read_run(project: Project, reference: str, key: str) -> tuple[Plan, TrainingSet, Release]:
    """What `claim`, `build_training_set` and `train` wrote for the run `key`."""
    _, case = project.find(reference)
    runs = project.runs_folder(case.name)
    folder = RunFolder(storage.join(runs, key))
    if not folder.is_trained:
        trained = {storage.Uri.parse(uri).parent.name for uri in storage.list_files(runs, suffix="release.json")}
        raise InputError(f"{case.name}: no trained run {key!r}; {nearest(key, trained)}")
    return folder.read_plan(), folder.read_training_set(), folder.read_release()


def read_report(release: Release) -> EvaluationReport:
    """The report that `evaluate` wrote beside a release. InputError if the release was not evaluated yet."""
    return RunFolder(release.home).read_report()
