"""`evermodel demo`: the whole loop on a simulated marketplace, as its owner would live it.

Days pass in simulated time. Each day's visitors are ranked for over HTTP by the champion of the moment; what they do is
ingested; at its end the monitoring pipeline looks at the day and, where the policy says so, trains and promotes. Nothing
here is a parallel path: the pipelines run through kfp.local, the answers come from Ray Serve, the features from the
online store, the results from the ledger.

Every step leaves a record that it finds when it is run again, so a demo that was killed goes on where it was, and a
second demo says what it reuses.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from evermodel import storage, workflow
from evermodel.data.events import EventLog
from evermodel.data.ingest import ingest_table
from evermodel.errors import EvermodelError
from evermodel.execution.launch import QUIET, launch, training_parameters
from evermodel.records import Window, canonical_json
from evermodel.serving.request_log import RequestLog
from evermodel.simulation.config import simulation
from evermodel.simulation.simulator import Simulator
from evermodel.use_case import UseCase
from evermodel.workflow import Project

NAME = "restaurants"
CLIENTS = 4


@dataclass
class Demo:
    """What the demo works on, and what it has to tell."""

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

    def say(self, message: str) -> None:
        """A line with the seconds since the start: the demo is for a person who waits."""
        print(f"{time.monotonic() - self.started:6.1f} s  {message}", file=sys.stderr, flush=True)


def run_demo(project: Project, *, port: int, fresh: bool) -> Path:
    """Run (or go on with) the demo; the path of its report."""
    uri, case = project.find(NAME)
    if fresh:
        forget(project, case)
    demo = Demo(project, case, uri, Simulator(case), port)
    settings = simulation(case)
    demo.say(f"project {project.profile.root}, use case {NAME}")
    _history(demo, settings.history)
    days = _days(case, settings.history.end, settings.live_windows)
    plan = [day for day in days if not storage.exists(_marker(demo, day))]
    demo.reused += [f"live day {day.start:%m-%d}" for day in days if day not in plan]
    if plan or project.ledger().champion(case.name) is None:
        with feast_applied(demo), ray() as address:
            demo.say(f"one Ray for everything: {address}")
            _first_champion(demo, settings.history)
            if plan:
                with served(demo, address):
                    for day in plan:
                        _live_day(demo, day)
    from evermodel.reports.run_history import write_report

    page = write_report(project.ledger(), case, home=project.profile.place(case.name, "demo"))
    _print_story(demo)
    if demo.reused:
        demo.say(f"reused from an earlier run: {', '.join(demo.reused)} (forget it by `evermodel demo --fresh`)")
    demo.say(f"report: {page}")
    return Path(page)


def _print_story(demo: Demo) -> None:
    """What happened, and what it was worth, as two tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    from evermodel.reports.run_history import read_business, read_history

    ledger, case = demo.project.ledger(), demo.case
    console = Console(width=None if sys.stdout.isatty() else 200)
    happened = Table(
        "at",
        "alerts",
        "diagnosis",
        "decision",
        "trained on",
        "parent",
        "cost",
        "verdict",
        "champion",
        title="Turns of the loop",
    )
    for row in read_history(ledger, case):
        decision = row.decision.partition(":")[0]  # the whole reason is in the report, and in `evermodel why`
        happened.add_row(
            row.at, row.alerts, row.diagnosis, decision, row.trained_on, row.parent, row.cost, row.verdict, row.champion
        )
    worth = Table("window", "champion", "answers", case.evaluation.metric, title="Business figures (matured rows)")
    for figure in case.business:
        worth.add_column(f"{figure.name} ({figure.unit})", justify="right")
    for line in read_business(ledger, case):
        figures = (f"{line.figures.get(figure.name, 0.0):,.2f}" for figure in case.business)
        worth.add_row(line.window, line.champion, f"{line.rows:,}", line.metric, *figures)
    console.print(happened, worth)


def forget(project: Project, case: UseCase) -> None:
    """Remove what an earlier demo left: the use case's folder, the pipelines' cache and the ledger that it is alone in."""
    files = storage.list_files(project.profile.root / "use_cases", suffix=".yaml")
    others = sorted(
        name
        for path in files
        if (name := Path(path).stem) != case.name and storage.exists(project.profile.place(name, "events"))
    )
    if others:
        raise EvermodelError(f"the project's ledger holds {', '.join(others)} too: run the demo in a new project")
    for name in (case.name, "features"):
        storage.delete_tree(storage.join(project.profile.state_uri, name))
    for name in ("pipelines", "runs", "evidently"):
        storage.delete_tree(project.profile.scratch_folder / name)
    for name in ("ledger.db", "mlflow.db", "online.db"):
        for end in ("", "-wal", "-shm"):
            storage.delete_file(storage.join(project.profile.state_uri, name + end))


def _days(case: UseCase, start: datetime, count: int) -> list[Window]:
    length = timedelta(microseconds=case.monitoring.window)
    return [Window(start=start + n * length, end=start + (n + 1) * length) for n in range(count)]


def _history(demo: Demo, window: Window) -> None:
    """Two weeks in which the marketplace had no model."""
    for name, table in demo.simulator.history(window).items():
        report = ingest_table(demo.case, name, table, demo.log, batch_id=f"history-{name}", now=window.end)
        if report.duplicate == report.rows_in:
            demo.reused.append(f"{name} of {window}")
        else:
            demo.say(f"ingested {report.applied:,} {name} ({report.rejected} rejected), {window}")
    workflow.materialize(demo.project, demo.uri, now=window.end)


def _first_champion(demo: Demo, window: Window) -> None:
    champion = demo.project.ledger().champion(demo.case.name)
    if champion is not None:
        demo.reused.append(f"first champion {champion.id}")
        return
    demo.say("training pipeline (kfp.local): the first champion …")
    parameters = training_parameters(
        use_case=demo.uri,
        windows="",
        mode="from_scratch",
        reason="the first champion",
        now=window.end,
    )
    done = launch(demo.project.profile, "training", parameters, log_name="demo-first")
    champion = demo.project.ledger().champion(demo.case.name)
    if champion is None:
        raise EvermodelError(f"the first champion didn't pass its gate: see {done.log}")
    demo.say(f"champion {champion.id}{_cached(done.cached_steps)}")


def _cached(steps: int) -> str:
    return f" ({steps} steps from the cache)" if steps else ""


def _marker(demo: Demo, day: Window) -> str:
    """Written when all of a day is done: what a second run looks at."""
    return demo.project.profile.place(demo.case.name, "demo", "days", f"{day.start:%Y-%m-%d}.json")


def _live_day(demo: Demo, day: Window) -> None:
    """Serve a day's visitors, ingest what they did, and let the monitoring pipeline look at it."""
    before = demo.project.ledger().champion(demo.case.name)
    _wait_for(demo, before.id if before else "")
    candidates = demo.simulator.requests(day)
    scores = ranked(demo.case, candidates, f"http://127.0.0.1:{demo.port}")
    impressions = demo.simulator.shown(candidates, scores)
    tables = {demo.case.predict.source: impressions}
    tables[simulation(demo.case).outcomes.source] = demo.simulator.outcomes(impressions)
    for name, table in tables.items():
        ingest_table(demo.case, name, table, demo.log, batch_id=f"{day}-{name}", now=day.end)
    workflow.materialize(demo.project, demo.uri, now=day.end)
    _wait_for_log(demo, day, impressions.num_rows)
    demo.say(
        f"day {day.start:%m-%d}: {impressions.num_rows:,} shown by {before.id if before else None}; looking at it …"
    )
    parameters = {
        "use_case": demo.uri,
        "window": f"{day.start.isoformat()}..{day.end.isoformat()}",
        "now": day.end.isoformat(),
    }
    done = launch(demo.project.profile, "monitoring", parameters, log_name=f"demo-{day.start:%m-%d}")
    _tell_day(demo, day, done.cached_steps)
    storage.write_text(_marker(demo, day), day.to_json())


def _wait_for_log(demo: Demo, day: Window, rows: int) -> None:
    """Wait until every answer of the day has reached the request log, which is written in parts."""
    log = RequestLog(demo.project.profile.place(demo.case.name, "requests"))
    end = time.monotonic() + 60
    while (found := log.read(day).num_rows) < rows:
        if time.monotonic() > end:
            raise EvermodelError(f"{found} of {rows} answers of {day} are in the request log after 60 s")
        time.sleep(0.3)


def _tell_day(demo: Demo, day: Window, cached: int) -> None:
    ledger = demo.project.ledger()
    decision = ledger.decisions(demo.case.name)[-1]  # perhaps an earlier day's: a keep that repeats is one row
    text = f"day {day.start:%m-%d}: {decision.action} ({decision.diagnosis}): {decision.reason}"
    if decision.action == "retrain":
        run = next(run for run in ledger.runs(demo.case.name) if run.key == decision.retrain_key)
        champion = ledger.champion(demo.case.name)
        text += f" → {run.state}, champion {champion.id if champion else None}"
    demo.say(text + _cached(cached))


def ranked(case: UseCase, candidates: pa.Table, url: str, *, token: str | None = None) -> np.ndarray:
    """The score of each candidate as the API at `url` gives it; -inf where it wasn't among the answered ones."""
    request, item = case.predict.group, case.predict.item
    assert request is not None and item is not None
    shown = simulation(case).traffic.shown
    rows = candidates.to_pylist()
    by_request: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_request.setdefault(row[request], []).append(index)
    scores = np.full(len(rows), -np.inf)
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    place = f"{url}/v1/{case.name}/rank"
    with httpx.Client(timeout=10, headers=headers) as client, ThreadPoolExecutor(CLIENTS) as pool:
        bodies = [(indexes, rank_body(case, [rows[i] for i in indexes], k=shown)) for indexes in by_request.values()]
        for (indexes, _), answer in zip(
            bodies, pool.map(lambda body: _ask(client, place, body[1]), bodies), strict=True
        ):
            candidate = {rows[index][item]: index for index in indexes}
            for answered in answer["ranking"]:
                scores[candidate[answered["item"]]] = answered["score"]
    return scores


def _ask(client: httpx.Client, url: str, body: str) -> dict[str, Any]:
    response = client.post(url, content=body)
    if response.status_code != 200:
        raise EvermodelError(f"{url}: {response.status_code} {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


def rank_body(case: UseCase, rows: list[dict[str, Any]], *, k: int) -> str:
    """The JSON of a `/rank` request for one request's candidates."""
    source = case.prediction_source
    group = case.predict.group or ""
    known = {field.name for field in source.fields} - {case.predict.position, group}
    shared = {name for name in known if len({row.get(name) for row in rows}) == 1 and name != case.predict.item}
    context = {name: rows[0][name] for name in sorted(shared) if rows[0].get(name) is not None}
    candidates = [{name: row[name] for name in sorted(known - shared) if row.get(name) is not None} for row in rows]
    at = rows[0]["event_time"].isoformat()
    return canonical_json(
        {
            "request_id": rows[0][group],
            "at": at,
            "k": k,
            "context": {**context, group: rows[0][group]},
            "candidates": candidates,
        }
    )


# what runs beside it --------------------------------------------------------------------------------------------------


@contextmanager
def feast_applied(demo: Demo) -> Iterator[None]:
    """Register the features with Feast meanwhile: it takes ten seconds, and nothing here waits for it."""
    log = demo.project.profile.scratch_folder / "runs" / "demo-feast.log"
    command = [sys.executable, "-m", "evermodel.cli", "features", "apply"]
    with storage.open_log(log) as output:
        process = subprocess.Popen(
            command, cwd=demo.project.profile.root, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **QUIET}
        )
        try:
            yield
        finally:
            if process.wait(timeout=120) != 0:
                demo.say(f"feast apply failed: see {log}")


@contextmanager
def ray() -> Iterator[str]:
    """A local Ray of our own; its address is in RAY_ADDRESS for everything that is started meanwhile."""
    import ray as library

    os.environ.update(QUIET)
    library.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200_000_000,
        _node_ip_address="127.0.0.1",
    )
    address = str(library.get_runtime_context().gcs_address)
    os.environ["RAY_ADDRESS"] = address
    try:
        yield address
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        library.shutdown()


@contextmanager
def served(demo: Demo, address: str) -> Iterator[None]:
    """`evermodel serve` in a process of its own, stopped at the end."""
    log = demo.project.profile.scratch_folder / "runs" / "demo-serve.log"
    command = [
        sys.executable,
        "-m",
        "evermodel.cli",
        "serve",
        demo.case.name,
        "--port",
        str(demo.port),
        "--simulated-time",
    ]
    with storage.open_log(log) as output:
        process = subprocess.Popen(
            command,
            cwd=demo.project.profile.root,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RAY_ADDRESS": address},
        )
        try:
            _wait_for(demo, None, process, log)
            demo.say(f"serving on http://127.0.0.1:{demo.port} (Ray Serve)")
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(
    demo: Demo, release: str | None, process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    """Wait until the API is ready, with `release` live where one is named."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise EvermodelError(f"serving ended at its start: see {log}")
        try:
            answer = httpx.get(f"http://127.0.0.1:{demo.port}/readyz", timeout=2)
            if answer.status_code == 200 and (release is None or release in answer.text):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise EvermodelError(f"release {release} isn't live after 90 s: see /readyz on port {demo.port}")
