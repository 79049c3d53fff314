"""Log the release, whatever its verdict, to the model registry."""

from components import component


@component
def register(plan: str, release: str, report: str) -> str:
    from evermodel import journey
    from evermodel.artifacts import EvaluationReport, Plan, Release

    project, todo = journey.Project.open(), Plan.from_json(plan)
    with project.recording(todo, "register", now=todo.now):
        return journey.register(project, todo, Release.from_json(release), EvaluationReport.from_json(report))
