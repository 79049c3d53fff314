"""Bring the online store up to `now`: each entity's window features, equal to the offline ones."""

from components import component


@component
def materialize(use_case: str, use_case_digest: str, now: str) -> int:
    from evermodel import workflow
    from evermodel.parsing import parse_time_or_now

    return workflow.materialize(workflow.Project.open(), use_case, now=parse_time_or_now(now))
