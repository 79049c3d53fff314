"""What has happened to a use case, as one HTML page: decisions, training runs, metric, drift and business figures.

Everything comes from the ledger and from the files that the runs left in their folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from evermodel import bundle, storage
from evermodel.evaluation.metrics import figure
from evermodel.evaluation.samples import sample_of
from evermodel.features.training_set import load
from evermodel.ledger import Ledger, Run
from evermodel.records import Decision, MonitoringReport, Release, TrainingManifest, TrainingSet, canonical_json
from evermodel.reports import page
from evermodel.reports.charts import draw_drift, draw_evaluation, draw_metric_history, draw_trade_off
from evermodel.run_folder import RunFolder
from evermodel.scores import combine
from evermodel.use_case import UseCase

WEIGHT_FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class HistoryRow:
    """One line of the table: the alerts, the decision, the training run and its result."""

    at: str
    alerts: str
    diagnosis: str
    decision: str
    trained_on: str
    parent: str
    cost: str
    verdict: str
    champion: str


@dataclass(frozen=True)
class BusinessRow:
    """A window's business figures."""

    window: str
    champion: str
    rows: int
    metric: str
    figures: dict[str, float]


def read_history(ledger: Ledger, case: UseCase) -> list[HistoryRow]:
    """One row for each decision and for each run without a decision, such as the first champion's; oldest first."""
    runs = {run.key: run for run in ledger.runs(case.name)}
    decisions = ledger.decisions(case.name)
    decided = {decision.retrain_key for decision in decisions if decision.action == "retrain"}
    alerts = {alert.id: alert for alert in ledger.alerts(case.name)}
    rows = [(run.started, _history_row(ledger, case, run, None, "")) for key, run in runs.items() if key not in decided]
    for decision in decisions:
        named = [alerts[id] for id in decision.alerts if id in alerts]
        newest = max((alert.window.end for alert in named), default=None)
        kinds = sorted({alert.kind for alert in named if alert.window.end == newest})
        run = runs.get(decision.retrain_key) if decision.action == "retrain" else None
        rows.append((decision.at, _history_row(ledger, case, run, decision, ", ".join(kinds))))
    return [row for _, row in sorted(rows, key=lambda entry: entry[0])]


def _history_row(ledger: Ledger, case: UseCase, run: Run | None, decision: Decision | None, alerts: str) -> HistoryRow:
    at = decision.at if decision else run.started if run else None
    release = ledger.find_release(case.name, str(run.result.get("release"))) if run else None
    manifests = [bundle.open_bundle(part).manifest for part in release.bundles] if release else []
    before = (decision.champion if decision else run.champion if run else None) or "none"
    after = release.id if release and run and run.state == "promoted" else before
    return HistoryRow(
        at=f"{at:%Y-%m-%d %H:%M}" if at else "",
        alerts=alerts or "–",
        diagnosis=(decision.diagnosis if decision and decision.alerts else None) or "–",
        decision=_describe_decision(decision, manifests),
        trained_on=_describe_rows(manifests),
        parent=_describe_parent(release, manifests),
        cost=f"{sum(one.rows_trained for one in manifests):,} rows × epochs, {sum(one.seconds for one in manifests):.1f} s"
        if manifests
        else "–",
        verdict=str(run.result.get("verdict", run.state)) if run else "–",
        champion=before if before == after else f"{before} → {after}",
    )


def _describe_decision(decision: Decision | None, manifests: Sequence[TrainingManifest]) -> str:
    if decision:
        return f"{decision.action}: {decision.reason}"
    return f"requested: {manifests[0].reason or 'the first champion'}" if manifests else ""


def _describe_rows(manifests: Sequence[TrainingManifest]) -> str:
    if not manifests:
        return "–"
    spans = "; ".join(f"{window.start:%m-%d %H:%M} – {window.end:%m-%d %H:%M}" for window in manifests[0].windows)
    rehearsal = manifests[0].rehearsal_rows
    return (spans + (f" + {rehearsal:,} rehearsal rows" if rehearsal else "")) or "–"


def _describe_parent(release: Release | None, manifests: Sequence[TrainingManifest]) -> str:
    if not manifests:
        return "–"
    return manifests[0].mode + (f" from {release.parent}" if release and release.parent else "")


def read_business(ledger: Ledger, case: UseCase) -> list[BusinessRow]:
    """One row for each monitored window."""
    return [
        BusinessRow(
            window=f"{report.window.start:%Y-%m-%d}",
            champion=report.champion or "none",
            rows=report.rows,
            metric="–" if report.performance is None else f"{report.performance:.4f}",
            figures={name: round(value, 2) for name, value in report.business.items()},
        )
        for report in _newest_reports(ledger, case)
    ]


def _newest_reports(ledger: Ledger, case: UseCase) -> list[MonitoringReport]:
    """The newest report of each window, in the order of the windows."""
    newest = {report.window: report for report in ledger.monitoring_reports(case.name)}
    return sorted(newest.values(), key=lambda report: report.window.start)


def measure_trade_off(case: UseCase, release: Release, rows: TrainingSet) -> list[dict[str, float]]:
    """NDCG of the first and the last objective's own label for several serving weights of the last objective.

    Nothing is trained: the weights only combine the release's scores of the gate rows.
    """
    if len(case.objectives) < 2 or case.framing != "ranking":
        return []
    gate = load(rows).gate
    scores = bundle.open_release(release).scores(gate)
    first, last = case.objectives[0], case.objectives[-1]
    points = []
    for factor in WEIGHT_FACTORS:
        point = {"weight": last.weight * factor}
        weights = {objective.name: objective.weight for objective in case.objectives} | {last.name: point["weight"]}
        combined = combine(scores, weights)
        for objective in (first, last):
            variant = case.model_copy(update={"objectives": (objective,)})
            value = figure("ndcg", sample_of(variant, gate, combined), k=case.evaluation.k)
            if value is not None:
                point[objective.name] = value
        points.append(point)
    return points


def write_report(ledger: Ledger, case: UseCase, *, home: str) -> str:
    """Write `report.html` and `run_history.json` to the folder `home`; the page's path."""
    history, business = read_history(ledger, case), read_business(ledger, case)
    champion = ledger.champion(case.name)
    content = {"history": [asdict(row) for row in history], "business": [asdict(row) for row in business]}
    storage.write_text(storage.join(home, "run_history.json"), canonical_json(content))
    path = storage.join(home, "report.html")
    drawn = _draw(ledger, case, champion)
    storage.write_text(path, _render(case, history, business, drawn, champion.id if champion else "none"))
    return path


def _draw(ledger: Ledger, case: UseCase, champion: Release | None) -> dict[str, str]:
    """SVG texts by title."""
    drawn: dict[str, str] = {}
    reports = _newest_reports(ledger, case)
    if reports:
        promotions = ledger.promotions(case.name)
        title = "Metric over time, with alerts and promotions"
        drawn[title] = draw_metric_history(case.evaluation.metric, reports, promotions)
        drawn["Drift by feature"] = draw_drift(reports)
    if champion is not None:
        folder = RunFolder(champion.home)
        points = measure_trade_off(case, champion, folder.read_training_set())
        if points:
            drawn["Objective trade-off: serving weights, no training"] = draw_trade_off(case, points)
        drawn |= draw_evaluation(folder.read_report())
    return drawn


def _render(
    case: UseCase,
    history: Sequence[HistoryRow],
    business: Sequence[BusinessRow],
    drawn: Mapping[str, str],
    champion: str,
) -> str:
    parts = [page.heading(case.name, f"{case.description} Champion ", page.code(champion), ".")]
    heads = ("at", "alerts", "diagnosis", "decision", "trained on", "parent", "cost", "verdict", "champion")
    rows = [tuple(asdict(row).values()) for row in history]
    parts.append(page.section("Decisions and training runs", page.table(heads, rows)))
    if business:
        units = [f"{measure.name} ({measure.unit})" for measure in case.business]
        figures = [
            (
                row.window,
                row.champion,
                f"{row.rows:,}",
                row.metric,
                *(
                    f"{row.figures[measure.name]:,.2f}" if measure.name in row.figures else "–"
                    for measure in case.business
                ),
            )
            for row in business
        ]
        table = page.table(("window", "champion", "rows", case.evaluation.metric, *units), figures, numbers_from=2)
        parts.append(page.section("Business figures of each window (matured rows)", table))
    if drawn:
        parts.append(page.section("Pictures", page.pictures(drawn, whole=next(iter(drawn)))))
    return page.render_page(f"{case.name}: history", parts)
