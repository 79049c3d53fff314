"""`evermodel demo`: the whole loop on a simulated marketplace.

Days pass in simulated time. On each day the champion ranks restaurants for the visitors over HTTP, and the log takes in
what the visitors do. At the day's end the monitoring pipeline checks the day and, if the policy decides so, trains and
promotes. Nothing here is a parallel path: the pipelines run through kfp.local, the answers come from Ray Serve, the
features from the online store, the results from the ledger.

Each step writes a record that a later run finds. So a demo that was killed resumes, and a second demo reports what it
reuses.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from evermodel import storage, workflow
from evermodel.cli.demo_processes import POLLING, local_ray, register_features, run_server, wait_until_ready
from evermodel.cli.output import console
from evermodel.cli.rank_client import rank_candidates
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table
from evermodel.errors import EvermodelError
from evermodel.execution.launch import launch, training_parameters
from evermodel.execution.retry import poll
from evermodel.records import Window
from evermodel.serving.request_log import RequestLog
from evermodel.simulation.config import simulation
from evermodel.simulation.simulator import Simulator
from evermodel.use_case import UseCase
from evermodel.workflow import Project

NAME = "restaurants"
LOG_SECONDS = 60


@dataclass
class Demo:
    """The project, use case and simulator of one demo, and which parts of an earlier demo it reuses."""

    project: Project
    case: UseCase
    uri: str
    simulator: Simulator
    port: int
    started: float = field(default_factory=time.monotonic)
    reused: list[str] = field(default_factory=list)

    @property
    def log(self) -> EventLog:
        return self.project.log(self.case)

    def print(self, message: str) -> None:
        """A line on stderr with the seconds since the start."""
        print(f"{time.monotonic() - self.started:6.1f} s  {message}", file=sys.stderr, flush=True)


def run_demo(project: Project, *, port: int, fresh: bool) -> Path:
    """Run or resume the demo; the path of its report page."""
    from evermodel.reports.run_history import write_report

    uri, case = project.find(NAME)
    if fresh:
        delete_demo(project, case)
    demo = Demo(project, case, uri, Simulator(case), port)
    settings = simulation(case)
    demo.print(f"project {project.profile.root}, use case {NAME}")
    _ingest_history(demo, settings.history)
    days = _days(case, settings.history.end, settings.live_windows)
    pending = [day for day in days if not storage.exists(_marker(demo, day))]
    demo.reused += [f"day {day.start:%m-%d}" for day in days if day not in pending]
    if pending or project.ledger().champion(case.name) is None:
        with register_features(project.profile), local_ray() as address:
            demo.print(f"one Ray for all steps: {address}")
            _train_first_champion(demo, settings.history)
            if pending:
                with run_server(project.profile, case.name, port=port, ray_address=address):
                    demo.print(f"serving on http://127.0.0.1:{port} (Ray Serve)")
                    for day in pending:
                        _run_day(demo, day)
    page = write_report(project.ledger(), case, home=project.profile.place(case.name, "demo"))
    _print_tables(demo)
    if demo.reused:
        demo.print(f"reused from an earlier run: {', '.join(demo.reused)} (`evermodel demo --fresh` starts over)")
    demo.print(f"report: {page}")
    return Path(page)


def delete_demo(project: Project, case: UseCase) -> None:
    """Delete what an earlier demo left: the use case's folder, the pipelines' cache, and the ledger.

    EvermodelError if the ledger holds other use cases.
    """
    files = storage.list_files(project.profile.root / "use_cases", suffix=".yaml")
    others = sorted(
        name
        for path in files
        if (name := Path(path).stem) != case.name and storage.exists(project.profile.place(name, "events"))
    )
    if others:
        raise EvermodelError(f"the project's ledger also holds {', '.join(others)}: run the demo in a new project")
    for name in (case.name, "features"):
        storage.delete_tree(storage.join(project.profile.state_uri, name))
    for name in ("pipelines", "runs", "evidently"):
        storage.delete_tree(project.profile.scratch_folder / name)
    for name in ("ledger.db", "mlflow.db", "online.db"):
        for end in ("", "-wal", "-shm"):
            storage.delete_file(storage.join(project.profile.state_uri, name + end))


# the steps ------------------------------------------------------------------------------------------------------------


def _days(case: UseCase, start: datetime, count: int) -> list[Window]:
    length = timedelta(microseconds=case.monitoring.window_length)
    return [Window(start=start + n * length, end=start + (n + 1) * length) for n in range(count)]


def _ingest_history(demo: Demo, window: Window) -> None:
    """Ingest two weeks in which the marketplace had no model."""
    for name, table in demo.simulator.history(window).items():
        report = ingest_table(demo.case, name, table, demo.log, batch_id=f"history-{name}", now=window.end)
        if report.duplicate == report.rows_in:
            demo.reused.append(f"{name} of {window}")
        else:
            demo.print(f"ingested {report.applied:,} {name} ({report.rejected} rejected), {window}")
    workflow.materialize(demo.project, demo.uri, now=window.end)


def _train_first_champion(demo: Demo, window: Window) -> None:
    champion = demo.project.ledger().champion(demo.case.name)
    if champion is not None:
        demo.reused.append(f"first champion {champion.id}")
        return
    demo.print("training pipeline (kfp.local): the first champion …")
    parameters = training_parameters(
        use_case=demo.uri, windows="", mode="from_scratch", reason="the first champion", now=window.end
    )
    result = launch(demo.project.profile, "training", parameters, log_name="demo-first")
    champion = demo.project.ledger().champion(demo.case.name)
    if champion is None:
        raise EvermodelError(f"the first champion did not pass its gate: see {result.log}")
    demo.print(f"champion {champion.id}{_cached(result.cached_steps)}")


def _run_day(demo: Demo, day: Window) -> None:
    """Rank for a day's visitors, ingest what they did, and run the monitoring pipeline on the day."""
    before = demo.project.ledger().champion(demo.case.name)
    wait_until_ready(demo.port, before.id if before else "")
    candidates = demo.simulator.requests(day)
    scores = rank_candidates(demo.case, candidates, f"http://127.0.0.1:{demo.port}")
    impressions = demo.simulator.shown(candidates, scores)
    tables = {demo.case.predict.source: impressions}
    tables[simulation(demo.case).outcomes.source] = demo.simulator.outcomes(impressions)
    for name, table in tables.items():
        ingest_table(demo.case, name, table, demo.log, batch_id=f"{day}-{name}", now=day.end)
    workflow.materialize(demo.project, demo.uri, now=day.end)
    _wait_for_log(demo, day, impressions.num_rows)
    ranker = f"champion {before.id}" if before else "no champion"
    demo.print(f"day {day.start:%m-%d}: {impressions.num_rows:,} restaurants shown, ranked by {ranker}; monitoring …")
    parameters = {
        "use_case": demo.uri,
        "window": f"{day.start.isoformat()}..{day.end.isoformat()}",
        "now": day.end.isoformat(),
    }
    result = launch(demo.project.profile, "monitoring", parameters, log_name=f"demo-{day.start:%m-%d}")
    print_decision(demo, day, result.cached_steps)
    storage.write_text(_marker(demo, day), day.to_json())


def _marker(demo: Demo, day: Window) -> str:
    """The file that is written when a day is complete. A later run skips the day if the file exists."""
    return demo.project.profile.place(demo.case.name, "demo", "days", f"{day.start:%Y-%m-%d}.json")


def _wait_for_log(demo: Demo, day: Window, rows: int) -> None:
    """Wait until every answer of the day is in the request log, which is written in parts."""
    log = RequestLog(demo.project.profile.place(demo.case.name, "requests"))
    found = poll(lambda: log.read(day).num_rows, lambda count: count >= rows, POLLING, limit_seconds=LOG_SECONDS)
    if found < rows:
        raise EvermodelError(f"{found} of {rows} answers of {day} are in the request log after {LOG_SECONDS} s")


# the output -----------------------------------------------------------------------------------------------------------


def print_decision(demo: Demo, day: Window, cached: int) -> None:
    """Print what was decided at a day's end. A keep that repeats has no row of its own: the newest row says it."""
    ledger = demo.project.ledger()
    decision = ledger.decisions(demo.case.name)[-1]
    if decision.alerts:
        text = f"{decision.action} ({decision.diagnosis}): {decision.reason}"
    elif any(alert.window == day for alert in ledger.alerts(demo.case.name)):
        text = f"{decision.action}: {decision.reason}"
    else:
        text = "keep: no alerts"
    if decision.action == "retrain":
        run = next(run for run in ledger.runs(demo.case.name) if run.key == decision.retrain_key)
        champion = ledger.champion(demo.case.name)
        text += f" → {run.state}, champion {champion.id if champion else None}"
    demo.print(f"day {day.start:%m-%d}: {text}{_cached(cached)}")


def _cached(steps: int) -> str:
    return f" ({steps} steps from the cache)" if steps else ""


def _print_tables(demo: Demo) -> None:
    """Print the decisions and runs, and the business figures, as two tables on stdout."""
    from rich.table import Table

    from evermodel.reports.run_history import read_business, read_history

    ledger, case = demo.project.ledger(), demo.case
    heads = ("at", "alerts", "diagnosis", "decision", "trained on", "parent", "cost", "verdict", "champion")
    history = Table(*heads, title="Decisions and training runs")
    for row in read_history(ledger, case):
        action = row.decision.partition(":")[0]  # the report and `evermodel decisions` have the whole reason
        history.add_row(
            row.at, row.alerts, row.diagnosis, action, row.trained_on, row.parent, row.cost, row.verdict, row.champion
        )
    business = Table("window", "champion", "answers", case.evaluation.metric, title="Business figures (matured rows)")
    for measure in case.business:
        business.add_column(f"{measure.name} ({measure.unit})", justify="right")
    for line in read_business(ledger, case):
        figures = (f"{line.figures.get(measure.name, 0.0):,.2f}" for measure in case.business)
        business.add_row(line.window, line.champion, f"{line.rows:,}", line.metric, *figures)
    console().print(history, business)
