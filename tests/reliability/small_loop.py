"""A whole loop, small enough to be killed at every durable step: 2,000 events, two training rounds, through `workflow`.

Three days of the pumps train the first champion. Each of the two live days is ingested in two batches that overlap, then
served by the present champion into the request log in two parts, monitored, decided on, and retrained if the policy says
so. `run_loop` can be run again: it continues from the state on disk.

`crashes.py` kills it; nothing here depends on that.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa

from evermodel import bundle, storage, workflow
from evermodel.data.events import EventLog
from evermodel.features import training_set
from evermodel.ledger import lease
from evermodel.records import Decision, Release, Window
from evermodel.serving.batch import score_rows
from evermodel.serving.request_log import RequestLog
from evermodel.use_case import UseCase
from evermodel.workflow import Project
from tests.support.pump_use_case import DAY, FIRST, LIVE, NAME, readings, write_readings, write_use_case

BATCHES = ("history", *(f"day{n}-{part}" for n in range(len(LIVE)) for part in "ab"))
REPEATED = 20  # rows of a batch that are in the next one, too
BROKEN = 2  # rows of the history that the schema rejects


def write_project(root: Path) -> None:
    """The project's files and, below `data`, a folder for each batch."""
    storage.write_text(root / "evermodel.yaml", "")
    write_use_case(root)
    rows = readings()
    halves = [(day.start + n * DAY / 2, day.start + (n + 1) * DAY / 2) for day in LIVE for n in range(2)]
    for name, (start, end) in zip(BATCHES, [(FIRST.start, FIRST.end), *halves], strict=True):
        inside = [n for n, row in enumerate(rows) if start <= datetime.fromisoformat(str(row["at"])) < end]
        chosen = rows[max(inside[0] - REPEATED, 0) : inside[-1] + 1]
        if name == "history":
            chosen = chosen + [{**rows[0], "id": f"bad{n}", "load": "99"} for n in range(BROKEN)]
        write_readings(root / "data" / name, chosen)


# the loop -------------------------------------------------------------------------------------------------------------


def run_loop(project: Project) -> None:
    """Run the five days, or the rest of them."""
    _ingest(project, BATCHES[0], FIRST.end)
    if project.ledger().champion(NAME) is None:
        _train_and_promote(project, None, FIRST.end)
    monitored = [report.window for report in project.ledger().monitoring_reports(NAME)]
    for number, day in enumerate(LIVE):
        if any(window.start > day.start for window in monitored):
            continue  # a scheduler does not return to a day after the next one has begun
        _ingest(project, f"day{number}-a", day.start + DAY / 2)
        _ingest(project, f"day{number}-b", day.end)
        _serve(project, day)
        workflow.monitor(project, NAME, window=day, now=day.end)
        decision = workflow.decide(project, NAME, now=day.end)
        if decision.action == "retrain":
            _train_and_promote(project, decision, day.end)


def _ingest(project: Project, batch: str, now: datetime) -> None:
    workflow.ingest(project, NAME, data_dir=project.profile.root / "data" / batch, now=now)


def _train_and_promote(project: Project, decision: Decision | None, now: datetime) -> None:
    """The steps of the training pipeline."""
    plan = workflow.plan_decision(project, decision) if decision else workflow.plan(project, NAME, now=now)
    if not workflow.claim(project, plan, owner=lease.this_process("loop"), now=now):
        return
    with project.recording(plan, "train", now=now):
        rows = workflow.build_training_set(project, plan)
        release = workflow.train(project, plan, rows)
        report = workflow.evaluate(project, plan, rows, release)
        workflow.promote(project, plan, release, report, actor="pipeline")


def _serve(project: Project, day: Window) -> None:
    """Predict the day's rows that were not predicted before a crash, in two flushes."""
    _, case = project.find(NAME)
    champion = project.ledger().champion(NAME)
    assert champion is not None
    log = RequestLog(project.profile.place(NAME, "requests"))
    predictions = predict(case, project.log(case), champion, day)
    before = set(log.read(day)["prediction_id"].to_pylist())
    predictions = predictions.filter(
        pa.array([name not in before for name in predictions["prediction_id"].to_pylist()])
    )
    middle = predictions.num_rows // 2
    for part in (predictions.slice(0, middle), predictions.slice(middle)):
        if part.num_rows:
            log.append(part)
            log.flush()


def predict(case: UseCase, log: EventLog, champion: Release, window: Window) -> pa.Table:
    """The window's rows as the champion serves them: features and scores, without the outcome."""
    rows = training_set.build_rows(case, log, window=window, now=window.end, labelled=False)
    outcomes = [label.field or label.name for label in case.labels if label.kind == "column"]
    table = score_rows(bundle.open_release(champion), rows.drop_columns(outcomes))
    ids = [f"{case.name}-{row}" for row in table["row_id"].to_pylist()]
    return table.append_column("prediction_id", pa.array(ids, pa.string()))
