"""From a window of answers to a better live model: look, decide, and (where the policy says so) retrain."""

from kfp import dsl

from components.decide import decide
from components.monitor import monitor
from evermodel.execution.kubeflow.platform import on_cluster
from pipelines.training import training


@dsl.pipeline(name="monitoring", description="Look at a window; retrain on the alert's windows if the policy says so.")
def monitoring(
    use_case: str, use_case_digest: str = "", window: str = "", now: str = "", owner: str = "pipeline"
) -> None:
    """The closed loop.

    Args:
        use_case: Name, path or URI of the use-case file.
        use_case_digest: Digest of its content; empty accepts whatever the file says now.
        window: START..END in ISO 8601; empty takes the last whole monitoring window.
        now: The time that the run takes for the present; empty takes the clock's.
        owner: Who holds the lease of a training run that follows.
    """
    looked = monitor(use_case=use_case, use_case_digest=use_case_digest, window=window, now=now)
    on_cluster(looked).set_caching_options(False)
    decision = decide(use_case=use_case, use_case_digest=use_case_digest, report=looked.outputs["Output"], now=now)
    on_cluster(decision).set_caching_options(False)
    with dsl.If(decision.outputs["Output"] == "retrain", name="retrain"):
        training(
            use_case=use_case,
            use_case_digest=use_case_digest,
            windows=decision.outputs["windows"],
            mode=decision.outputs["mode"],
            trigger=decision.outputs["trigger"],
            retrain_key=decision.outputs["retrain_key"],
            reason=decision.outputs["reason"],
            now=now,
            owner=owner,
        )
