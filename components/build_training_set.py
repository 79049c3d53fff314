"""Build the point-in-time rows of the plan's windows: training rows, rehearsal rows and the gate's rows."""

from components import component


@component
def build_training_set(plan: str) -> str:
    from evermodel import workflow
    from evermodel.records import Plan

    project, run_plan = workflow.Project.open(), Plan.from_json(plan)
    with project.recording(run_plan, "build_training_set", now=run_plan.now):
        return workflow.build_training_set(project, run_plan).to_json()
