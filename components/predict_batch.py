"""Score the rows of a window with the champion on Ray Data; each row gets a score."""

from components import scoring_component


@scoring_component
def predict_batch(use_case: str, use_case_digest: str, window: str, now: str) -> str:
    from evermodel import workflow
    from evermodel.parsing import parse_time_or_now, parse_window

    return workflow.predict_batch(
        workflow.Project.open(), use_case, window=parse_window(window), now=parse_time_or_now(now)
    )
