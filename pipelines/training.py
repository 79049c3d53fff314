"""From a window to a verdict: plan, rows, training, evaluation, registry, promotion."""

from kfp import dsl

from components.build_training_set import build_training_set
from components.evaluate import evaluate
from components.plan_run import plan_run
from components.promote import promote
from components.register import register
from components.train import train
from evermodel.execution.kubeflow.platform import on_cluster


@dsl.pipeline(name="training", description="Train a challenger and promote it if it passes the gate.")
def training(
    use_case: str,
    use_case_digest: str = "",
    windows: str = "",
    mode: str = "",
    parent: str = "champion",
    trigger: str = "",
    retrain_key: str = "",
    reason: str = "",
    now: str = "",
    owner: str = "pipeline",
) -> None:
    """One run of one retrain key.

    Args:
        use_case: Name, path or URI of the use-case file.
        use_case_digest: Digest of its content; empty accepts whatever the file says now.
        windows: START..END in ISO 8601, comma between several; empty takes all that is new to the champion.
        mode: stateful or from_scratch; empty goes on from the champion, or starts where there is none.
        parent: champion, none, or a release id.
        trigger: The alert's window, where one asked for this run.
        retrain_key: One run a key; empty derives it from the other parameters.
        reason: Why; starting over although a champion is there needs one.
        now: The time that the run takes for the present; empty takes the clock's.
        owner: Who holds the lease while the run goes on.
    """
    planned = plan_run(
        use_case=use_case,
        use_case_digest=use_case_digest,
        windows=windows,
        mode=mode,
        parent=parent,
        trigger=trigger,
        retrain_key=retrain_key,
        reason=reason,
        now=now,
        owner=owner,
    )
    on_cluster(planned).set_caching_options(False)
    plan = planned.outputs["plan"]
    with dsl.If(planned.outputs["Output"] == "yes", name="granted"):
        rows = on_cluster(build_training_set(plan=plan))
        release = on_cluster(train(plan=plan, training_set=rows.output), heavy=True)
        report = on_cluster(evaluate(plan=plan, training_set=rows.output, release=release.output), heavy=True)
        registered = register(plan=plan, release=release.output, report=report.outputs["Output"])
        on_cluster(registered).set_caching_options(False)
        promoted = promote(
            plan=plan, release=release.output, report=report.outputs["Output"], registered=registered.output
        )
        on_cluster(promoted).set_caching_options(False)
