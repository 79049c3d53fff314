"""Monitoring: one window of answers, compared with the champion that gave them."""

from __future__ import annotations

from datetime import datetime

from evermodel.errors import EvermodelError
from evermodel.monitoring import cohorts
from evermodel.records import MonitoringReport, Release, Window
from evermodel.run_folder import RunFolder
from evermodel.use_case import UseCase
from evermodel.workflow.project import Project, ServedWindow


def newest_window(case: UseCase, *, now: datetime) -> Window:
    """The last whole monitoring window before `now`. See `cohorts.newest_window`."""
    return cohorts.newest_window(case, now=now)


def monitor(
    project: Project, reference: str, *, window: Window, now: datetime, page: str | None = None
) -> MonitoringReport:
    """Monitor one window with the labels known at `now`; its report and alerts go to the ledger.

    Earlier windows of the same champion whose last labels arrived since the previous report are monitored once more for
    their performance. With `page` (path or URI) an Evidently report is written there and to the Evidently workspace in the
    project's scratch folder: for every window, or for those with alerts, as the use case states.
    """
    _, case = project.find(reference)
    ledger = project.ledger()
    if ledger.champion(case.name) is None:
        raise EvermodelError(f"{case.name}: there is no champion to monitor; train the first")
    report, served, champion = _monitor_window(project, case, window, now=now)
    ledger.record_window(report, now=now)
    for alert in report.alerts:
        ledger.record_alert(alert, now=now)
    for older in cohorts.newly_matured(case, ledger.monitoring_reports(case.name), report, now=now):
        again, _, _ = _monitor_window(project, case, older, now=now)
        ledger.record_window(again, now=now)
        for alert in again.alerts:
            if alert.kind == "performance":  # everything else was known when the window was the newest
                ledger.record_alert(alert, now=now)
    if page is not None and served.rows.num_rows and (report.alerts or case.monitoring.report == "always"):
        from evermodel.monitoring.report import write_report

        trained = project.load_training_set(RunFolder(champion.home).read_training_set()).train
        workspace = project.profile.scratch_folder / "evidently"  # Evidently writes local files only
        write_report(case, report, served.rows, trained, out=page, workspace=workspace)
    return report


def _monitor_window(
    project: Project, case: UseCase, window: Window, *, now: datetime
) -> tuple[MonitoringReport, ServedWindow, Release]:
    """A window's report, its served rows, and the champion that it is compared with. Nothing is recorded."""
    from evermodel.monitoring import monitor as monitoring
    from evermodel.monitoring.skew import skew
    from evermodel.retraining.rounds import read_reference

    served = project.served_window(case, window, now=now)
    champion = cohorts.answering_champion(project.ledger().promotions(case.name), served.releases)
    offline = project.offline_rows(case, window, now=now) if served.rows.num_rows else None
    report = monitoring.monitor(
        case,
        served.rows,
        read_reference(champion),
        window=window,
        now=now,
        champion=champion.id,
        skew=skew(case, served.rows, offline) if offline is not None else {},
    )
    return report, served, champion
