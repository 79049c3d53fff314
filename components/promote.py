"""Carry out the verdict: the ledger's promotion row is the commit, the registry's aliases follow it."""

from components import component


@component
def promote(plan: str, release: str, report: str, registered: str) -> str:
    from evermodel import workflow
    from evermodel.records import EvaluationReport, Plan, Release

    project, todo = workflow.Project.open(), Plan.from_json(plan)
    verdict = EvaluationReport.from_json(report)
    with project.recording(todo, "promote", now=todo.now):
        word = workflow.promote(project, todo, Release.from_json(release), verdict, actor="pipeline")
        if registered:
            workflow.sync_aliases(project, todo.use_case)
    return word
