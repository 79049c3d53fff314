"""Train every objective of the use case, from the parent's whole state or from scratch; leaves the release."""

from components import training_component


@training_component
def train(plan: str, training_set: str) -> str:
    from evermodel import journey
    from evermodel.artifacts import Plan, TrainingSet

    project, todo = journey.Project.open(), Plan.from_json(plan)
    with project.recording(todo, "train", now=todo.now):
        return journey.train(project, todo, TrainingSet.from_json(training_set)).to_json()
