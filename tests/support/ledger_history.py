"""A project with two weeks of history of `restaurants` in its ledger, and real bundles.

The history: a first champion; concept drift, answered by a retrain; a day of broken data, answered by none; a covariate
shift, answered by a retrain that a person rolls back; a challenger that the gate holds, with all files of its run.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evermodel.ledger import Ledger
from evermodel.records import (
    Alert,
    Decision,
    Diagnosis,
    EvaluationReport,
    Interval,
    MonitoringReport,
    Plan,
    Promotion,
    Ref,
    Release,
    TrainingSet,
    Verdict,
    Window,
)
from evermodel.registry import promotion
from evermodel.run_folder import RunFolder
from evermodel.workflow import Project
from tests.support import ROOT
from tests.support.bundles import small_bundle

NAME = "restaurants"
START = datetime(2026, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = START + 20 * DAY + timedelta(hours=9, minutes=30)
FIRST = Window(start=START, end=START + 7 * DAY)
HELD_RUN = "7c1d5e02a9b34f68"
#: For each day after the first promotion: the release that served, its ndcg, and the diagnosis.
DAYS: tuple[tuple[str, float, Diagnosis | None], ...] = (
    ("a", 0.7684, None),
    ("a", 0.7531, None),
    ("a", 0.7602, None),
    ("a", 0.6120, "concept_shift"),
    ("b", 0.7419, None),
    ("b", 0.7366, None),
    ("b", 0.6702, "broken_data"),
    ("b", 0.7388, None),
    ("b", 0.6871, "covariate_shift"),
    ("c", 0.6634, None),
    ("b", 0.7012, None),
    ("b", 0.7291, None),
)
#: ndcg on its gate's rows: of each release, and of the champion that it replaced.
GATE = {"a": 0.7577, "b": 0.7341, "c": 0.7686}
CHAMPION_AT_GATE = {"b": 0.5963, "c": 0.6828}


def day(n: int) -> Window:
    return Window(start=FIRST.end + n * DAY, end=FIRST.end + (n + 1) * DAY)


def run_folder(project: Project, key: str) -> RunFolder:
    return RunFolder(project.profile.place(NAME, "runs", key))


def write_release(project: Project, key: str, *, cursor: datetime, parent: str | None) -> Release:
    """A release with small real bundles in its run's folder."""
    folder = run_folder(project, key)
    bundles = tuple(
        small_bundle(
            folder.uri, key, use_case=NAME, objective=objective, mode="stateful", windows=(FIRST,), cursor=cursor
        )
        for objective in ("order", "revenue")
    )
    release = Release(
        use_case=NAME,
        bundles=bundles,
        weights={"order": 1.0, "revenue": 0.1},
        cursor=cursor,
        created=cursor,
        home=folder.uri,
        parent=parent,
    )
    folder.write_release(release)
    return release


def promote_verdict(metric: float, before: float | None) -> Verdict:
    if before is None:
        return Verdict(word="promote", reasons=(f"no champion yet; ndcg is {metric:.4f}",))
    point = metric - before
    interval = Interval(point=point, low=point - 0.05, high=point + 0.05)
    reason = f"ndcg {metric:.4f} against the champion's {before:.4f}: difference {point:+.4f}, its lower bound is above −0.03"
    return Verdict(word="promote", difference=interval, reasons=(reason,))


def make_project(folder: Path) -> Project:
    """An empty project of one use case."""
    (folder / "use_cases").mkdir(parents=True)
    (folder / "evermodel.yaml").write_text("")
    shutil.copy(ROOT / "use_cases" / f"{NAME}.yaml", folder / "use_cases")
    return Project.open(folder)


def project_with_history(folder: Path) -> Project:
    """The project with the whole history in its ledger."""
    project = make_project(folder)
    ledger = project.ledger()
    record_promoted_run(project, ledger, "first", 0, "the first champion", promote_verdict(GATE["a"], None))
    releases = {"a": ledger.champion(NAME)}
    for n, (name, value, diagnosis) in enumerate(DAYS):
        if name not in releases:
            decision = ledger.decisions(NAME)[-1]
            verdict = promote_verdict(GATE[name], CHAMPION_AT_GATE[name])
            record_promoted_run(project, ledger, decision.retrain_key, n, decision.reason, verdict, decision)
            releases[name] = ledger.champion(NAME)
        record_day(ledger, n, releases[name], value, diagnosis)  # type: ignore[arg-type]
        if name == "c":
            reason = "orders from the harbour fell by a third since this morning"
            promotion.rollback(ledger, NAME, now=day(n).end - timedelta(hours=4), actor="anna", reason=reason)
    record_held_run(project, ledger)
    return project


def record_day(ledger: Ledger, n: int, champion: Release, value: float, diagnosis: Diagnosis | None) -> None:
    """Records one monitored day, its alerts and the decision after it."""
    window, end = day(n), day(n).end
    kinds = {"broken_data": ("data_quality", "feature_drift"), "concept_shift": ("performance",)}
    alerts = tuple(
        Alert(use_case=NAME, kind=kind, window=window, champion=champion.id, diagnosis=diagnosis)  # type: ignore[arg-type]
        for kind in (kinds.get(diagnosis, ("feature_drift", "prediction_drift")) if diagnosis else ())
    )
    is_newest = n == len(DAYS) - 1
    report = MonitoringReport(
        use_case=NAME,
        window=window,
        champion=champion.id,
        rows=2264,
        matured_rows=640 if is_newest else 2136,
        metric="ndcg",
        performance=None if is_newest else value,
        estimate=value if is_newest else None,
        reference=GATE[DAYS[n][0]],
        alerts=alerts,
    )
    ledger.record_window(report, now=end)
    for alert in alerts:
        ledger.record_alert(alert, now=end)
    retrains = diagnosis in ("concept_shift", "covariate_shift")
    reasons = {
        None: f"no alert against champion {champion.id}",
        "broken_data": f"broken data in {window} (data_quality, feature_drift): the window is quarantined and never trained on",
        "concept_shift": f"concept_shift: performance in {window}, at least 1 of the last 1 windows alerted; 6464 new rows",
        "covariate_shift": f"covariate_shift: feature_drift, prediction_drift in {window}, at least 1 of the last 1 windows alerted; 8344 new rows",
    }
    ledger.record_decision(
        Decision(
            use_case=NAME,
            at=end,
            action="retrain" if retrains else "keep",
            reason=reasons[diagnosis],  # type: ignore[index]
            champion=champion.id,
            windows=(Window(start=champion.cursor, end=end),) if retrains else (),
            trigger=window if diagnosis else None,
            diagnosis=diagnosis,
            alerts=tuple(alert.id for alert in alerts),
        )
    )


def record_promoted_run(
    project: Project,
    ledger: Ledger,
    key: str,
    n: int,
    reason: str,
    verdict: Verdict,
    decision: Decision | None = None,
) -> Promotion:
    """Records a run that starts with day n and ends in a promotion eleven minutes later."""
    start = day(n).start
    champion = ledger.champion(NAME)
    assert ledger.claim_lease(key, owner="pipeline", now=start, seconds=3600)
    assert ledger.start_run(
        key, use_case=NAME, decision_id=decision.id if decision else None, owner="pipeline", now=start
    )
    before = champion.id if champion else None
    release = write_release(project, key, cursor=start - timedelta(hours=6), parent=before)
    ended = start + timedelta(minutes=11, seconds=40)
    row = promotion.promote(
        ledger, release, verdict=verdict, expected=before, now=ended, actor="pipeline", reason=reason
    )
    ledger.finish_run(key, state="promoted", result={"release": release.id, "verdict": "promote"}, now=ended)
    return row


def record_held_run(project: Project, ledger: Ledger) -> None:
    """Records a run whose challenger the gate holds, and writes all files of the run."""
    at, champion = day(len(DAYS)).start, ledger.champion(NAME)
    assert champion is not None
    key, folder = HELD_RUN, run_folder(project, HELD_RUN)
    ledger.claim_lease(key, owner="pipeline", now=at, seconds=3600)
    ledger.start_run(key, use_case=NAME, decision_id=None, owner="pipeline", now=at)
    release = write_release(project, key, cursor=at, parent=champion.id)
    reason = "ndcg 0.7310 against the champion's 0.7291: difference +0.0019, its lower bound −0.0412 is below −0.03"
    verdict = Verdict(word="hold", difference=Interval(point=0.0019, low=-0.0412, high=0.0450), reasons=(reason,))
    uri, case = project.find(NAME)
    plan = Plan(
        use_case=NAME,
        use_case_uri=uri,
        use_case_digest=case.digest(),
        data_version="1",
        code_version="3",
        windows=(Window(start=champion.cursor, end=at),),
        mode="stateful",
        parent=champion,
        champion=champion,
        trigger=None,
        now=at,
        key=key,
        reason="asked for",
    )
    rows = TrainingSet(
        use_case=NAME,
        windows=plan.windows,
        gate_window=day(11),
        rehearsal_window=None,
        train=Ref(uri="nowhere", digest="0"),
        gate=Ref(uri="nowhere", digest="0"),
        rehearsal=None,
        rows=10,
        gate_rows=5,
        rehearsal_rows=0,
        row_digest="0",
        data_version="1",
        cursor=at,
    )
    report = EvaluationReport(
        use_case=NAME,
        challenger=release.id,
        champion=champion.id,
        rows=5,
        window=day(11),
        metric="ndcg",
        metrics={"ndcg": 0.7310},
        champion_metrics={"ndcg": 0.7291},
        baselines={},
        model_bytes=100,
        milliseconds_per_row=0.1,
        verdict=verdict,
    )
    folder.write_plan(plan)
    folder.write_training_set(rows)
    folder.write_report(report)
    ledger.record_release(release, now=at, verdict=verdict)
    ended = at + timedelta(minutes=9, seconds=5)
    ledger.finish_run(key, state="held", result={"release": release.id, "verdict": "hold"}, now=ended)
