"""The whole loop in one page: ingest, train, gate, promote, answer, monitor, decide, retrain.

    python examples/loop.py

A pump fails under high load. On the sixth day the pumps are rebuilt: now heat makes them fail, and load hardly matters.
The inputs do not show this change; the outcomes do, an hour later. The loop detects it, retrains and promotes.

Each step is one call of `evermodel.workflow`, in this process: no server, no Ray, no Kubeflow Pipelines. The pipelines,
the serving app and the command line call the same functions.
"""

import csv
import math
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evermodel import bundle, workflow
from evermodel.features.online_store import OnlineStore
from evermodel.records import Decision, Window
from evermodel.serving.predictions import log_rows
from evermodel.serving.predictor import Predictor
from evermodel.serving.request_log import RequestLog
from evermodel.workflow import Project

USE_CASE = """
name: pumps
framing: binary
entities: [{name: pump, key: pump}]
sources:
  - name: readings
    reader: csv
    path: "*.csv"
    event_time: {field: at}
    unique: [id]
    fields: [{name: id, type: string}, {name: at, type: timestamp}, {name: pump, type: string},
             {name: load}, {name: heat}, {name: failed, type: int, values: ["0", "1"]}]
predict: {source: readings}
labels: [{name: failed, kind: column, delay: 1h}]        # an outcome is known an hour after the reading
features:
  - {name: load, kind: column}
  - {name: heat, kind: column}
objectives: [{name: failed, label: failed, model: {kind: mlp, hidden: [8]}}]
training:
  first: {start: 2026-01-01T00:00:00Z, end: 2026-01-05T00:00:00Z}
  epochs: 10
  batch_size: 32
  learning_rate: 0.01
  stateful: {epochs: 40, batch_size: 32, learning_rate: 0.03, rehearsal_share: 0.05}
evaluation: {metric: auc}
gate: {share: 0.2, margin: 0.05}
serving: {deadline: 5s, feature_timeout: 2s}
monitoring: {window: 1d, minimum_rows: 100, performance_drop: 0.1}
retraining: {minimum_new_rows: 800}
"""
START, DAY, DELAY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1), timedelta(hours=1)
FIRST_LIVE, CHANGE, DAYS, PER_DAY = 4, 5, 8, 300


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = create_project(Path(folder))
        rows = list(make_rows())
        ingest(project, rows[: FIRST_LIVE * PER_DAY], START + FIRST_LIVE * DAY)
        train(project, None, START + FIRST_LIVE * DAY)
        for day in range(FIRST_LIVE, DAYS):
            window = Window(start=START + day * DAY, end=START + (day + 1) * DAY)
            now = window.end + DELAY  # the outcomes of the day's last readings are known
            today = rows[day * PER_DAY : (day + 1) * PER_DAY]
            answer(project, today)
            ingest(project, today, now)
            report = workflow.monitor(project, "pumps", window=window, now=now)
            decision = workflow.decide(project, "pumps", now=now)
            print(f"{window.start:%b %d}: auc {report.performance:.3f}; {decision.action}: {decision.reason}")
            if decision.action == "retrain":
                train(project, decision, now)


def train(project: Project, decision: Decision | None, now: datetime) -> None:
    """Train a challenger on the decision's windows, judge it by the gate, and promote it if it passes."""
    if decision is None:
        plan = workflow.plan(project, "pumps", now=now, reason="the first champion")
    else:
        plan = workflow.plan_decision(project, decision)
    workflow.claim(project, plan, owner="example", now=now)
    training_set = workflow.build_training_set(project, plan)
    challenger = workflow.train(project, plan, training_set)
    report = workflow.evaluate(project, plan, training_set, challenger)
    workflow.promote(project, plan, challenger, report, actor="example")
    print(f"  challenger {challenger.id} {report.verdict.word}: {'; '.join(report.verdict.reasons)}")


def answer(project: Project, rows: list[dict[str, object]]) -> None:
    """Predict each row with the champion at the row's time, and log the predictions, as the server does."""
    _, case = project.find("pumps")
    champion = project.ledger().champion("pumps")
    assert champion is not None
    predictor = Predictor(case, bundle.open_release(champion), OnlineStore(case, project.profile.online_features))
    log = RequestLog(project.profile.place("pumps", "requests"))
    for row in rows:
        known = {name: value for name, value in row.items() if name not in ("at", "failed")}
        predictions = predictor.predict([known], now=datetime.fromisoformat(str(row["at"])))
        log.append(log_rows(case, predictions))
    log.flush()


def ingest(project: Project, rows: list[dict[str, object]], now: datetime) -> None:
    """Write a file of rows, append it to the event log, and bring the online features up to date."""
    with (project.profile.root / "data" / f"{now:%Y-%m-%d}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    workflow.ingest(project, "pumps", data_dir=project.profile.root / "data", now=now)
    workflow.materialize(project, "pumps", now=now)


def create_project(folder: Path) -> Project:
    """A project is a folder with `evermodel.yaml` and use-case files."""
    (folder / "data").mkdir()
    (folder / "use_cases").mkdir()
    (folder / "evermodel.yaml").write_text("num_workers: 0\n")
    (folder / "use_cases" / "pumps.yaml").write_text(USE_CASE)
    return Project.open(folder)


def make_rows() -> Iterator[dict[str, object]]:
    """Readings of eight pumps, in order of time. Load makes a pump fail; after `CHANGE` days heat does."""
    rng = random.Random(7)
    for number in range(DAYS * PER_DAY):
        load, heat = rng.gauss(0, 1), rng.gauss(0, 1)
        cause, other = (load, heat) if number < CHANGE * PER_DAY else (heat, load)
        risk = 1 / (1 + math.exp(-3 * cause - 0.5 * other))
        yield {
            "id": f"r{number}",
            "at": (START + number * DAY / PER_DAY).isoformat(),
            "pump": f"p{rng.randrange(8)}",
            "load": round(load, 4),
            "heat": round(heat, 4),
            "failed": int(rng.random() < risk),
        }


if __name__ == "__main__":
    main()
