"""Decide by the policy whether to retrain and on which windows, with the reason."""

from typing import NamedTuple

from components import component


@component
def decide(use_case: str, use_case_digest: str, report: str, now: str) -> NamedTuple(
    "Outputs", Output=str, windows=str, mode=str, trigger=str, retrain_key=str, reason=str
):  # type: ignore[valid-type]
    from collections import namedtuple

    from evermodel import workflow
    from evermodel.parsing import parse_time_or_now
    from evermodel.records import canonical_json

    decision = workflow.decide(workflow.Project.open(), use_case, now=parse_time_or_now(now))
    windows = canonical_json([window.model_dump(mode="json") for window in decision.windows])
    trigger = decision.trigger.to_json() if decision.trigger else ""
    outputs = namedtuple("Outputs", "Output windows mode trigger retrain_key reason")
    return outputs(decision.action, windows, decision.mode, trigger, decision.retrain_key, decision.reason)
