"""Score a window of rows with the champion."""

from kfp import dsl

from components.predict_batch import predict_batch
from evermodel.execution.kubeflow.platform import apply_platform


@dsl.pipeline(name="batch-prediction", description="Score a window of rows with the champion.")
def batch_prediction(use_case: str, window: str, use_case_digest: str = "", now: str = "") -> None:
    """Write one score for each row, as Parquet.

    Args:
        use_case: Name, path or URI of the use-case file.
        window: START..END in ISO 8601.
        use_case_digest: Digest of its content; empty accepts the file as it is.
        now: The present time of the run; empty takes the clock's.
    """
    scored = predict_batch(use_case=use_case, use_case_digest=use_case_digest, window=window, now=now)
    apply_platform(scored, heavy=True).set_caching_options(False)
