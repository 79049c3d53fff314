"""Bring the online store up to date."""

from kfp import dsl

from components.materialize import materialize as step


@dsl.pipeline(name="materialize", description="Bring the online store up to date.")
def materialize(use_case: str, use_case_digest: str = "", now: str = "") -> None:
    """Window features of every entity, as of now.

    Args:
        use_case: Name, path or URI of the use-case file.
        use_case_digest: Digest of its content; empty accepts whatever the file says now.
        now: The time that the run takes for the present; empty takes the clock's.
    """
    step(use_case=use_case, use_case_digest=use_case_digest, now=now).set_caching_options(False)
