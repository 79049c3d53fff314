"""Log the release to the model registry, with any verdict."""

from components import component


@component
def register(plan: str, release: str, report: str) -> str:
    from evermodel import workflow
    from evermodel.records import EvaluationReport, Plan, Release

    project, run_plan = workflow.Project.open(), Plan.from_json(plan)
    with project.recording(run_plan, "register", now=run_plan.now):
        return workflow.register(project, run_plan, Release.from_json(release), EvaluationReport.from_json(report))
