"""Train every objective of the use case, from the parent's whole state or from scratch; returns the release."""

from components import training_component


@training_component
def train(plan: str, training_set: str) -> str:
    from evermodel import workflow
    from evermodel.records import Plan, TrainingSet

    project, run_plan = workflow.Project.open(), Plan.from_json(plan)
    with project.recording(run_plan, "train", now=run_plan.now):
        return workflow.train(project, run_plan, TrainingSet.from_json(training_set)).to_json()
