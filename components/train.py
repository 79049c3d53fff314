"""Train every objective of the use case, from the parent's whole state or from scratch; leaves the release."""

from components import training_component


@training_component
def train(plan: str, training_set: str) -> str:
    from evermodel import workflow
    from evermodel.records import Plan, TrainingSet

    project, todo = workflow.Project.open(), Plan.from_json(plan)
    with project.recording(todo, "train", now=todo.now):
        return workflow.train(project, todo, TrainingSet.from_json(training_set)).to_json()
