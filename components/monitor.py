"""Monitor one window of served predictions with the labels known by `now`; alerts go to the ledger."""

from kfp import dsl

from components import component


@component
def monitor(use_case: str, use_case_digest: str, window: str, now: str, page: dsl.Output[dsl.HTML]) -> str:
    from evermodel import storage, workflow
    from evermodel.parsing import parse_time_or_now, parse_window

    project, at = workflow.Project.open(), parse_time_or_now(now)
    _, case = project.find(use_case)
    monitored = parse_window(window) or workflow.newest_window(case, now=at)
    report = workflow.monitor(project, use_case, window=monitored, now=at, page=page.path)
    if not storage.exists(page.path):
        storage.write_text(page.path, f"<p>{monitored}: {report.rows} rows, nothing alerted.</p>")
    return report.to_json()
