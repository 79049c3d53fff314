"""Plan a run and claim its key; a second run of the same key isn't granted, and does nothing."""

from typing import NamedTuple

from components import component


@component
def plan_run(
    use_case: str,
    use_case_digest: str,
    windows: str,
    mode: str,
    parent: str,
    trigger: str,
    retrain_key: str,
    reason: str,
    now: str,
    owner: str,
) -> NamedTuple("Outputs", plan=str, Output=str):  # type: ignore[valid-type]
    from collections import namedtuple

    from evermodel import workflow
    from evermodel.parsing import parse_time_or_now, parse_window, parse_windows

    project, at = workflow.Project.open(), parse_time_or_now(now)
    plan = workflow.plan(
        project,
        use_case,
        now=at,
        windows=parse_windows(windows),
        mode=mode or None,
        trigger=parse_window(trigger),
        key=retrain_key,
        reason=reason,
        parent=parent or "champion",
        use_case_digest=use_case_digest,
    )
    granted = workflow.claim(project, plan, owner=owner, now=at)
    return namedtuple("Outputs", "plan Output")(plan.to_json(), "yes" if granted else "no")
