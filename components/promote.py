"""Carry out the verdict: write the ledger's promotion row, then set the registry's aliases to match it."""

from components import component


@component
def promote(plan: str, release: str, report: str, registered: str) -> str:
    from evermodel import workflow
    from evermodel.records import EvaluationReport, Plan, Release

    project, run_plan = workflow.Project.open(), Plan.from_json(plan)
    verdict = EvaluationReport.from_json(report)
    with project.recording(run_plan, "promote", now=run_plan.now):
        word = workflow.promote(project, run_plan, Release.from_json(release), verdict, actor="pipeline")
        if registered:
            workflow.sync_aliases(project, run_plan.use_case)
    return word
