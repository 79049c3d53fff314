"""Append a use case's sources to its event log; rows that are there already are counted, not applied."""

from components import component


@component
def ingest(use_case: str, use_case_digest: str, data_dir: str, now: str) -> str:
    from evermodel import workflow
    from evermodel.parsing import parse_time_or_now
    from evermodel.records import canonical_json

    reports = workflow.ingest(workflow.Project.open(), use_case, data_dir=data_dir, now=parse_time_or_now(now))
    return canonical_json([report.model_dump(mode="json") for report in reports])
