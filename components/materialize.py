"""Bring the online store up to `now`: each entity's window features, as the offline path computes them."""

from components import component


@component
def materialize(use_case: str, use_case_digest: str, now: str) -> int:
    from evermodel import journey
    from evermodel.arguments import moment

    return journey.materialize(journey.Project.open(), use_case, now=moment(now))
