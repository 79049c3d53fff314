"""Judge the challenger against the champion on the gate's rows; returns the report with its verdict."""

from kfp import dsl

from components import scoring_component


@scoring_component
def evaluate(
    plan: str,
    training_set: str,
    release: str,
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> str:
    from evermodel import storage, workflow
    from evermodel.records import Plan, Release, TrainingSet
    from evermodel.run_folder import RunFolder

    project, run_plan, challenger = workflow.Project.open(), Plan.from_json(plan), Release.from_json(release)
    with project.recording(run_plan, "evaluate", now=run_plan.now):
        report = workflow.evaluate(project, run_plan, TrainingSet.from_json(training_set), challenger)
    for name, value in report.metrics.items():
        if value is not None:
            metrics.log_metric(name, value)
    if report.roc:
        roc.log_roc_curve(*(list(column) for column in zip(*report.roc, strict=True)))
    storage.write_text(page.path, storage.read_text(RunFolder(challenger.home).report_page))
    storage.write_text(summary.path, storage.read_text(RunFolder(challenger.home).report_text))
    # kfp.local takes a task from the cache only if the files of its metrics artifacts exist.
    storage.write_text(metrics.path, report.to_json())
    storage.write_text(roc.path, report.to_json())
    return report.to_json()
