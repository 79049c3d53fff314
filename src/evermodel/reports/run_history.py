"""What has happened to a use case, as one HTML page: every turn of the loop, the metric, the drift, the business figures.

All of it is read from the ledger and from what the runs left beside their releases; nothing is remembered elsewhere.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evermodel import bundle, storage
from evermodel.evaluation.metrics import figure, sample_of
from evermodel.features.training_set import load
from evermodel.ledger import Ledger, Run
from evermodel.records import (
    Decision,
    EvaluationReport,
    MonitoringReport,
    Release,
    TrainingManifest,
    TrainingSet,
    canonical_json,
)
from evermodel.reports.charts import chart_drift, chart_life, chart_trade_off
from evermodel.reports.evaluation import pictures
from evermodel.use_case import UseCase


@dataclass(frozen=True)
class TurnRow:
    """One line of the table: what was seen, what was decided, and what came of it."""

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


def turns(ledger: Ledger, case: UseCase) -> list[TurnRow]:
    """The first champion, then one line for each decision, oldest first."""
    runs = {run.key: run for run in ledger.runs(case.name)}
    decisions = ledger.decisions(case.name)
    decided = {decision.retrain_key for decision in decisions if decision.action == "retrain"}
    alerts = {alert.id: alert for alert in ledger.alerts(case.name)}
    rows = [(run.started, _run_row(ledger, case, run, None, "")) for key, run in runs.items() if key not in decided]
    for decision in decisions:
        named = [alerts[id] for id in decision.alerts if id in alerts]
        newest = max((alert.window.end for alert in named), default=None)
        seen = sorted({alert.kind for alert in named if alert.window.end == newest})
        run = runs.get(decision.retrain_key) if decision.action == "retrain" else None
        rows.append((decision.at, _run_row(ledger, case, run, decision, ", ".join(seen))))
    return [row for _, row in sorted(rows, key=lambda entry: entry[0])]


def _run_row(ledger: Ledger, case: UseCase, run: Run | None, decision: Decision | None, alerts: str) -> TurnRow:
    at = decision.at if decision else run.started if run else None
    release = ledger.find_release(case.name, str(run.result.get("release"))) if run else None
    manifests = _manifests(release)
    before = (decision.champion if decision else run.champion if run else None) or "none"
    after = release.id if release and run and run.state == "promoted" else before
    spans = (
        [f"{window.start:%m-%d %H:%M} – {window.end:%m-%d %H:%M}" for window in manifests[0].windows]
        if manifests
        else []
    )
    replayed = manifests[0].rehearsal_rows if manifests else 0
    return TurnRow(
        at=f"{at:%Y-%m-%d %H:%M}" if at else "",
        alerts=alerts or "–",
        diagnosis=decision.diagnosis if decision and decision.alerts else "–",
        decision=f"{decision.action}: {decision.reason}"
        if decision
        else f"asked for: {manifests[0].reason or 'the first champion'}"
        if manifests
        else "",
        trained_on="; ".join(spans) + (f" + {replayed:,} replayed rows" if replayed else "") or "–",
        parent=(manifests[0].mode + (f" from {release.parent}" if release and release.parent else ""))
        if manifests
        else "–",
        cost=f"{sum(m.rows_trained for m in manifests):,} rows × epochs, {sum(m.seconds for m in manifests):.1f} s"
        if manifests
        else "–",
        verdict=str(run.result.get("verdict", run.state)) if run else "–",
        champion=before if before == after else f"{before} → {after}",
    )


def _manifests(release: Release | None) -> list[TrainingManifest]:
    return [bundle.open_bundle(part).manifest for part in release.bundles] if release else []


def business(ledger: Ledger, case: UseCase) -> list[BusinessRow]:
    """One line for each monitored window."""
    return [
        BusinessRow(
            window=f"{report.window.start:%Y-%m-%d}",
            champion=report.champion or "none",
            rows=report.rows,
            metric="–" if report.performance is None else f"{report.performance:.4f}",
            figures={name: round(value, 2) for name, value in report.business.items()},
        )
        for report in _windows(ledger, case)
    ]


def _windows(ledger: Ledger, case: UseCase) -> list[MonitoringReport]:
    """The newest report of each window."""
    newest = {report.window: report for report in ledger.monitoring_reports(case.name)}
    return sorted(newest.values(), key=lambda report: report.window.start)


def trade_off(case: UseCase, release: Release, rows: TrainingSet) -> list[dict[str, float]]:
    """NDCG of each objective's own label as the last objective's weight goes from 0 upwards, without any training."""
    if len(case.objectives) < 2 or case.framing != "ranking":
        return []
    gate = load(rows).gate
    scores = bundle.open_release(release).scores(gate)
    first, last = case.objectives[0], case.objectives[-1]
    points = []
    for factor in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        combined = sum(scores[objective.name] * objective.weight for objective in case.objectives[:-1])
        combined = np.asarray(combined + scores[last.name] * last.weight * factor)
        point = {"weight": last.weight * factor}
        for objective in (first, last):
            variant = case.model_copy(update={"objectives": (objective,)})
            value = figure("ndcg", sample_of(variant, gate, combined), k=case.evaluation.k)
            if value is not None:
                point[objective.name] = value
        points.append(point)
    return points


def tell(ledger: Ledger, case: UseCase, *, home: str) -> str:
    """Write `report.html` and `story.json` to `home`; the page's path."""
    table, figures = turns(ledger, case), business(ledger, case)
    reports = _windows(ledger, case)
    champion = ledger.champion(case.name)
    drawn: dict[str, str] = {}
    if reports:
        drawn["Metric over time, with alerts and promotions"] = chart_life(case, reports, ledger.promotions(case.name))
        drawn["Drift by feature"] = chart_drift(reports)
    if champion is not None:
        evaluation = EvaluationReport.from_json(storage.read_text(storage.join(champion.home, "report.json")))
        points = trade_off(case, champion, _training_set(champion))
        if points:
            drawn["Objective trade-off: serve-time weights, no training"] = chart_trade_off(case, points)
        drawn |= {title: svg for title, svg in pictures(evaluation).items()}
    story = {"turns": [asdict(row) for row in table], "business": [asdict(row) for row in figures]}
    storage.write_text(storage.join(home, "story.json"), canonical_json(story))
    page = storage.join(home, "report.html")
    storage.write_text(page, _page(case, table, figures, drawn, champion.id if champion else "none"))
    return page


def _training_set(release: Release) -> TrainingSet:
    return TrainingSet.from_json(storage.read_text(storage.join(release.home, "training_set.json")))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ case.name }}: the loop</title><style>
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; color: #1e293b; background: #f8fafc; margin: 0 auto; max-width: 1180px; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; } .muted { color: #64748b; }
.wide { overflow-x: auto; background: #fff; border-radius: 8px; box-shadow: 0 1px 3px #0f172a1a; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; } th { text-align: left; color: #64748b; font-weight: 600; }
th, td { padding: .42rem .7rem; border-bottom: 1px solid #e2e8f0; vertical-align: top; } tr:last-child td { border-bottom: 0; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } .pictures { columns: 2 460px; column-gap: .9rem; }
figure { background: #fff; border-radius: 8px; box-shadow: 0 1px 3px #0f172a1a; margin: 0 0 .9rem; padding: .8rem; break-inside: avoid; }
figure.whole { column-span: all; } figure img { width: 100%; } figcaption { font-weight: 600; margin-bottom: .3rem; }
.promote { color: #15803d; font-weight: 600; } .hold { color: #b45309; font-weight: 600; } .reject, .failed { color: #b91c1c; font-weight: 600; }
</style></head><body>
<h1>{{ case.name }}</h1><div class="muted">{{ case.description }} Champion <code>{{ champion }}</code>.</div>
<h2>Turns of the loop</h2><div class="wide"><table><thead><tr>{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for row in turns %}<tr>{% for cell in row.values() %}<td{% if cell in ('promote', 'hold', 'reject', 'failed') %} class="{{ cell }}"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% if business %}<h2>Business figures of each window (matured rows)</h2><div class="wide"><table><thead><tr><th>window</th><th>champion</th><th>rows</th><th>{{ case.evaluation.metric }}</th>
{% for figure in case.business %}<th>{{ figure.name }} ({{ figure.unit }})</th>{% endfor %}</tr></thead><tbody>
{% for row in business %}<tr><td>{{ row.window }}</td><td><code>{{ row.champion }}</code></td><td class="n">{{ "{:,}".format(row.rows) }}</td><td class="n">{{ row.metric }}</td>
{% for figure in case.business %}<td class="n">{{ "{:,.2f}".format(row.figures[figure.name]) if figure.name in row.figures else "–" }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}
<h2>Pictures</h2><div class="pictures">{% for title, image in pictures %}<figure{% if loop.first %} class="whole"{% endif %}><figcaption>{{ title }}</figcaption><img alt="{{ title }}" src="{{ image }}"></figure>
{% endfor %}</div></body></html>
"""


def _page(case: UseCase, table: list[TurnRow], figures: list[BusinessRow], drawn: dict[str, str], champion: str) -> str:
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    rows: list[dict[str, Any]] = [asdict(row) for row in table]
    heads = [name.replace("_", " ") for name in rows[0]] if rows else []
    images = [(title, _embedded(svg)) for title, svg in drawn.items()]
    return page.render(case=case, champion=champion, turns=rows, heads=heads, business=figures, pictures=images)


def _embedded(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
