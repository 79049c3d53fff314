"""Look at one window of answers with the labels known by now; alerts go to the ledger."""

from kfp import dsl

from components import component


@component
def monitor(use_case: str, use_case_digest: str, window: str, now: str, page: dsl.Output[dsl.HTML]) -> str:
    from evermodel import storage, workflow
    from evermodel.parsing import parse_time_or_now, parse_window

    project, at = workflow.Project.open(), parse_time_or_now(now)
    _, case = project.find(use_case)
    looked_at = parse_window(window) or workflow.newest_window(case, now=at)
    report = workflow.monitor(project, use_case, window=looked_at, now=at, page=page.path)
    if not storage.exists(page.path):
        storage.write_text(page.path, f"<p>{looked_at}: {report.rows} rows, nothing alerted.</p>")
    return report.to_json()
