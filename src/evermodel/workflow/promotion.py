"""Registry and promotion: the verdict becomes a row of the ledger, and the registry's aliases follow it."""

from __future__ import annotations

from datetime import datetime

from evermodel import bundle
from evermodel.errors import EvermodelError
from evermodel.records import RUN_STATES, EvaluationReport, Plan, Promotion, Release
from evermodel.workflow.project import Project


def register(project: Project, plan: Plan, release: Release, report: EvaluationReport) -> str:
    """Log the release to the registry, whatever its verdict; the id of the registry's run."""
    from evermodel.registry.store import ModelRegistry

    manifests = [bundle.open_bundle(part).manifest for part in release.bundles]
    _, case = project.find(plan.use_case_uri)
    return ModelRegistry(project.profile.mlflow_uri).log_release(case, release, manifests, report)


def promote(
    project: Project,
    plan: Plan,
    release: Release,
    report: EvaluationReport,
    *,
    actor: str,
    override: str | None = None,
) -> str:
    """Carry out the gate's verdict in the ledger and end the run; the word of the verdict.

    `override` promotes against the gate, with a reason that the audit record keeps.
    """
    from evermodel.registry.promotion import promote as commit

    ledger = project.ledger()
    word = "promote" if override else report.verdict.word
    if word == "promote":
        commit(
            ledger,
            release,
            verdict=report.verdict,
            expected=plan.champion.id if plan.champion else None,
            now=plan.now,
            actor=actor,
            reason=override or plan.reason,
            override=override is not None,
        )
    result = {"release": release.id, "verdict": word, "reasons": list(report.verdict.reasons)}
    ledger.finish_run(plan.key, state=RUN_STATES[word], result=result, now=plan.now)
    return word


def sync_aliases(project: Project, name: str) -> dict[str, str]:
    """Re-apply the registry's aliases until they match the ledger."""
    from evermodel.registry.store import ModelRegistry

    return ModelRegistry(project.profile.mlflow_uri).sync_aliases(project.ledger(), name)


def rollback(project: Project, reference: str, *, now: datetime, actor: str, reason: str) -> Promotion:
    """Put the previous champion back."""
    from evermodel.registry.promotion import rollback as undo

    _, case = project.find(reference)
    ledger = project.ledger()
    champion = ledger.champion(case.name)
    if champion is None:
        raise EvermodelError(f"{case.name}: there is no champion to roll back from")
    return undo(ledger, case.name, now=now, actor=actor, reason=reason, replaced=champion.id)
