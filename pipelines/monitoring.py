"""From a window of served predictions to a better champion: monitor, decide, and retrain if the policy says so."""

from kfp import dsl

from components.decide import decide
from components.monitor import monitor
from evermodel.execution.kubeflow.platform import apply_platform
from pipelines.training import training


@dsl.pipeline(name="monitoring", description="Monitor a window; retrain on the alert's windows if the policy says so.")
def monitoring(
    use_case: str, use_case_digest: str = "", window: str = "", now: str = "", owner: str = "pipeline"
) -> None:
    """Monitor and decide; then train, if the decision is `retrain`.

    Args:
        use_case: Name, path or URI of the use-case file.
        use_case_digest: Digest of its content; empty accepts the file as it is.
        window: START..END in ISO 8601; empty takes the last whole monitoring window.
        now: The present time of the run; empty takes the clock's.
        owner: Holder of the lease of a training run that follows.
    """
    monitored = monitor(use_case=use_case, use_case_digest=use_case_digest, window=window, now=now)
    apply_platform(monitored).set_caching_options(False)
    decision = decide(use_case=use_case, use_case_digest=use_case_digest, report=monitored.outputs["Output"], now=now)
    apply_platform(decision).set_caching_options(False)
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
