"""Monitoring: one window of answers against the champion that gave them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from evermodel import storage
from evermodel.clock import from_micros, micros
from evermodel.errors import EvermodelError
from evermodel.features import training_set as training_sets
from evermodel.records import MonitoringReport, Promotion, Release, TrainingSet, Window
from evermodel.use_case import UseCase
from evermodel.workflow.project import Project


def newest_window(case: UseCase, *, now: datetime) -> Window:
    """The last whole monitoring window before `now`, on a grid of its length from the epoch."""
    length = case.monitoring.window_length
    end = micros(now) // length * length
    return Window(start=from_micros(end - length), end=from_micros(end))


def monitor(
    project: Project, reference: str, *, window: Window, now: datetime, page: str | None = None
) -> MonitoringReport:
    """Look at one window of answers with the labels known at `now`; its report and alerts go to the ledger.

    With `page` (path or URI) an Evidently report is written there and to the Evidently workspace in the project's scratch
    folder, for every window or for those that alerted, as the use case says.
    """
    _, case = project.find(reference)
    ledger = project.ledger()
    if ledger.champion(case.name) is None:
        raise EvermodelError(f"{case.name}: there is no champion to monitor; train the first")
    report, served, champion = _look(project, case, window, now=now)
    ledger.record_window(report, now=now)
    for alert in report.alerts:
        ledger.record_alert(alert, now=now)
    for older in _ripened(case, ledger.monitoring_reports(case.name), report, now=now):
        again, _, _ = _look(project, case, older, now=now)
        ledger.record_window(again, now=now)
        for alert in again.alerts:
            if alert.kind == "performance":  # all else was known when it was the newest
                ledger.record_alert(alert, now=now)
    if page is not None and served.num_rows and (report.alerts or case.monitoring.report == "always"):
        from evermodel.monitoring.report import write_report

        rows = training_sets.load(_training_set(champion)).train
        workspace = project.profile.scratch_folder / "evidently"  # local files of Evidently's own: no object store
        write_report(case, report, served, rows, out=page, workspace=workspace)
    return report


def _look(
    project: Project, case: UseCase, window: Window, *, now: datetime
) -> tuple[MonitoringReport, pa.Table, Release]:
    """A window's report, its served rows, and the champion that it is held against. Nothing is recorded."""
    from evermodel.monitoring.cohorts import served_rows
    from evermodel.monitoring.monitor import monitor as look
    from evermodel.monitoring.skew import skew
    from evermodel.retraining.rounds import reference_for
    from evermodel.serving.request_log import RequestLog

    answers = RequestLog(project.profile.place(case.name, "requests")).read(window)
    champion = _answering(project.ledger().promotions(case.name), answers)
    served = served_rows(case, answers, project.log(case), now=now)
    offline = training_sets.build_rows(case, project.log(case), window=window, now=now, labelled=False)
    differs = skew(case, served, offline) if served.num_rows else {}
    reference = reference_for(champion)
    report = look(case, served, reference, window=window, now=now, champion=champion.id, skew=differs)
    return report, served, champion


def _ripened(
    case: UseCase, known: Sequence[MonitoringReport], newest: MonitoringReport, *, now: datetime
) -> list[Window]:
    """The same champion's earlier windows whose last labels have come since the look before this one: where labels
    take longer than a window, only now is their performance known."""
    maturity = timedelta(microseconds=case.maturity)
    earlier = [one for one in known if one.window.end < newest.window.end]
    looked = max((one.window.end for one in earlier), default=now)
    own = [one.window for one in earlier if one.champion == newest.champion]
    return [window for window in own if looked < window.end + maturity <= now]


def _training_set(release: Release) -> TrainingSet:
    """What `build_training_set` left of the run that made a release."""
    return TrainingSet.from_json(storage.read_text(storage.join(release.home, "training_set.json")))


def _answering(promotions: Sequence[Promotion], answers: pa.Table) -> Release:
    """The newest champion that a window was answered by: looked at again after a promotion, a window mustn't be held
    against a champion that wasn't there. The present one where nobody answered."""
    seen = set(answers["release"].to_pylist()) if "release" in answers.column_names else set()
    return next((row.release for row in reversed(promotions) if row.release.id in seen), promotions[-1].release)
