"""From a window to a verdict: plan, rows, training, evaluation, registry, promotion."""

from kfp import dsl

from components.build_training_set import build_training_set
from components.evaluate import evaluate
from components.plan_run import plan_run
from components.promote import promote
from components.register import register
from components.train import train
from evermodel.execution.kubeflow.platform import apply_platform


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
    """Run one retrain key once.

    Args:
        use_case: Name, path or URI of the use-case file.
        use_case_digest: Digest of its content; empty accepts the file as it is.
        windows: START..END in ISO 8601, separated by commas; empty takes all that is new to the champion.
        mode: stateful or from_scratch; empty is stateful if there is a parent, else from_scratch.
        parent: champion, none, or a release id.
        trigger: The window of the alert that started this run, if one did.
        retrain_key: A key runs once; empty derives it from the other parameters.
        reason: Text for the record; needed to start from scratch if there is a champion.
        now: The present time of the run; empty takes the clock's.
        owner: Holder of the lease during the run.
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
    apply_platform(planned).set_caching_options(False)
    plan = planned.outputs["plan"]
    with dsl.If(planned.outputs["Output"] == "yes", name="granted"):
        rows = apply_platform(build_training_set(plan=plan)).output
        release = apply_platform(train(plan=plan, training_set=rows), heavy=True).output
        report = apply_platform(evaluate(plan=plan, training_set=rows, release=release), heavy=True).outputs["Output"]
        run_id = apply_platform(register(plan=plan, release=release, report=report)).set_caching_options(False).output
        apply_platform(promote(plan=plan, release=release, report=report, registered=run_id)).set_caching_options(False)
