"""Judge the challenger against the champion on the gate's rows; leaves the report with its verdict."""

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

    project, todo, challenger = workflow.Project.open(), Plan.from_json(plan), Release.from_json(release)
    with project.recording(todo, "evaluate", now=todo.now):
        report = workflow.evaluate(project, todo, TrainingSet.from_json(training_set), challenger)
    for name, value in report.metrics.items():
        if value is not None:
            metrics.log_metric(name, value)
    if report.roc:
        roc.log_roc_curve(*(list(column) for column in zip(*report.roc, strict=True)))
    storage.write_text(page.path, storage.read_text(storage.join(challenger.home, "report.html")))
    storage.write_text(summary.path, storage.read_text(storage.join(challenger.home, "report.md")))
    # A task with a metrics artifact is a cache hit only if that artifact's file is there too.
    storage.write_text(metrics.path, report.to_json())
    storage.write_text(roc.path, report.to_json())
    return report.to_json()
