"""From sources to the online store: ingest new rows, then bring every entity's features up to date."""

from kfp import dsl

from components.ingest import ingest
from components.materialize import materialize as step
from evermodel.execution.kubeflow.platform import apply_platform


@dsl.pipeline(name="materialize", description="Ingest new rows, and bring the online store up to date.")
def materialize(use_case: str, data_dir: str, use_case_digest: str = "", now: str = "") -> None:
    """Ingest events, then compute the window features of every entity as of now.

    Args:
        use_case: Name, path or URI of the use-case file.
        data_dir: Folder that the sources' paths are relative to.
        use_case_digest: Digest of its content; empty accepts the file as it is.
        now: The present time of the run; empty takes the clock's.
    """
    events = ingest(use_case=use_case, use_case_digest=use_case_digest, data_dir=data_dir, now=now)
    apply_platform(events).set_caching_options(False)
    features = step(use_case=use_case, use_case_digest=use_case_digest, now=now)
    apply_platform(features).set_caching_options(False).after(events)
