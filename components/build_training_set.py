"""Point-in-time rows of the plan's windows: what is trained on, what is replayed, what the gate judges on."""

from components import component


@component
def build_training_set(plan: str) -> str:
    from evermodel import workflow
    from evermodel.records import Plan

    project, todo = workflow.Project.open(), Plan.from_json(plan)
    with project.recording(todo, "build_training_set", now=todo.now):
        return workflow.build_training_set(project, todo).to_json()
