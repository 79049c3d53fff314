"""Log the release, whatever its verdict, to the model registry."""

from components import component


@component
def register(plan: str, release: str, report: str) -> str:
    from evermodel import workflow
    from evermodel.records import EvaluationReport, Plan, Release

    project, todo = workflow.Project.open(), Plan.from_json(plan)
    with project.recording(todo, "register", now=todo.now):
        return workflow.register(project, todo, Release.from_json(release), EvaluationReport.from_json(report))
