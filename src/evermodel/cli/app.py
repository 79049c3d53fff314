"""The command line: one verb a stage, the same for people and for CI.

Data goes to stdout, progress to stderr and only on a terminal. Exit codes: 0 ok, 1 failure, 2 usage, 3 gate not passed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from evermodel import clock
from evermodel import use_case as use_cases
from evermodel.cli import groups
from evermodel.cli.output import DataDir, Now, Output, UseCaseName, progress, show
from evermodel.errors import EvermodelError, GateError, InputError
from evermodel.ledger.lease import this_process
from evermodel.parsing import parse_time_or_now, parse_window, parse_windows
from evermodel.records import Plan, Release, TrainingSet
from evermodel.workflow import Project

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keep a model in production fresh.", rich_markup_mode=None
)
app.add_typer(groups.features, name="features")
app.add_typer(groups.config, name="config")
app.add_typer(groups.ledger, name="ledger")


@app.command()
def init(
    name: str, template: Annotated[str, typer.Option(help="electricity, entree, fraud or restaurants")] = "restaurants"
) -> None:
    """Write a complete project with one use case into the folder NAME."""
    from evermodel.scaffold import write_project

    for path in write_project(Path(name), template):
        print(path)


@app.command()
def ingest(use_case: UseCaseName, data: DataDir = ".", now: Now = "", output: Output = "table") -> None:
    """Append a use case's sources to its event log: what is there already is counted, not applied."""
    from evermodel import workflow

    reports = workflow.ingest(Project.open(), use_case, data_dir=data, now=parse_time_or_now(now))
    show([report.model_dump(mode="json") for report in reports], output)


@app.command("ingest-stream")
def ingest_stream(
    use_case: Annotated[list[str], typer.Argument(metavar="USE_CASE...")],
    host: Annotated[str, typer.Option(help="where /metrics and /healthz answer: counts, no data")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="of /metrics and /healthz")] = 9100,
    group: Annotated[str, typer.Option(help="Kafka's consumer group")] = "evermodel-ingester",
    batch_rows: Annotated[int, typer.Option(min=1, help="a batch is committed at so many rows")] = 5000,
    batch_seconds: Annotated[float, typer.Option(help="or so long after its first one")] = 2.0,
    refresh_seconds: Annotated[float, typer.Option(help="online features follow at most so often")] = 5.0,
    simulated_time: Annotated[bool, typer.Option(help="take the newest event's time for the present")] = False,
) -> None:
    """Take the topics `<use case>.<source>` of the profile's broker into the event logs, until interrupted."""
    import logging

    from evermodel import workflow
    from evermodel.streaming import kafka
    from evermodel.streaming.messages import newest_event, streams
    from evermodel.streaming.metrics import StreamStatus

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    project = Project.open()
    if project.profile.broker is None:
        raise InputError("the profile names no broker: write `broker: host:9092` into evermodel.yaml")
    cases = {case.name: (uri, case) for uri, case in map(project.find, use_case)}

    def refresh(name: str) -> None:
        uri, case = cases[name]
        newest = newest_event(case, project.log(case)) if simulated_time else None
        workflow.materialize(project, uri, now=newest or clock.now())

    ingester = kafka.StreamIngester(
        kafka.consumer(project.profile.broker, group),
        [stream for _, case in cases.values() for stream in streams(case, project.log(case))],
        refresh=refresh,
        clock=clock.now,
        status=StreamStatus(),
        pace=kafka.BatchSchedule(batch_rows=batch_rows, batch_seconds=batch_seconds, refresh_seconds=refresh_seconds),
    )
    with ingester.status.serve(host, port):
        ingester.run(kafka.until_terminated())


@app.command()
def train(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END, comma between several; empty: all that is new")] = "",
    mode: Annotated[str, typer.Option(help="stateful or from_scratch; empty: stateful where there is a champion")] = "",
    parent: Annotated[str, typer.Option(help="champion, none, or a release id")] = "champion",
    reason: str = "",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Train a challenger here, in process; prints the run's key, which `evaluate` and `promote` take."""
    from evermodel import workflow

    project, at = Project.open(), parse_time_or_now(now)
    plan = workflow.plan(
        project,
        use_case,
        now=at,
        windows=parse_windows(window),
        mode=workflow.mode_of(mode),
        parent=parent,
        reason=reason,
    )
    if not workflow.claim(project, plan, owner=this_process("cli"), now=at):
        raise EvermodelError(f"run {plan.key} is finished, or somebody else's: evaluate it, or name another window")
    with project.recording(plan, "train", now=at):
        rows = workflow.build_training_set(project, plan)
        progress(f"{rows.rows} rows to train on, {rows.rehearsal_rows} replayed, {rows.gate_rows} to judge on")
        release = workflow.train(project, plan, rows)
    show({"key": plan.key, "release": release.id, "rows": rows.rows, "home": release.home}, output)


def _run(project: Project, use_case: str, key: str) -> tuple[Plan, TrainingSet, Release]:
    from evermodel import workflow

    return workflow.read_run(project, use_case, key)


@app.command()
def evaluate(use_case: UseCaseName, key: str, output: Output = "table") -> None:
    """Judge a trained challenger against the champion; exit code 3 where the gate doesn't say promote."""
    from evermodel import workflow

    project = Project.open()
    plan, rows, release = _run(project, use_case, key)
    report = workflow.evaluate(project, plan, rows, release)
    show(
        {
            "verdict": report.verdict.word,
            "metric": report.metric,
            "challenger": report.metrics.get(report.metric),
            "champion": report.champion_metrics.get(report.metric),
            "reasons": "\n".join(report.verdict.reasons),
            "report": f"{release.home}/report.html",
        },
        output,
    )
    if report.verdict.word != "promote":
        raise typer.Exit(3)


@app.command()
def promote(
    use_case: UseCaseName,
    key: str,
    override: Annotated[str, typer.Option(help="promote against the gate, for this recorded reason")] = "",
    output: Output = "table",
) -> None:
    """Make a judged challenger the champion; exit code 3 where the gate doesn't say promote."""
    from evermodel import workflow

    project = Project.open()
    plan, _, release = _run(project, use_case, key)
    report = workflow.read_report(release)
    workflow.register(project, plan, release, report)
    word = workflow.promote(project, plan, release, report, actor="cli", override=override or None)
    workflow.sync_aliases(project, plan.use_case)
    show({"release": release.id, "verdict": word}, output)
    if word != "promote":
        raise typer.Exit(3)


@app.command()
def rollback(
    use_case: UseCaseName, reason: Annotated[str, typer.Option()], now: Now = "", output: Output = "table"
) -> None:
    """Put the previous champion back, for a recorded reason."""
    from evermodel import workflow

    project = Project.open()
    row = workflow.rollback(project, use_case, now=parse_time_or_now(now), actor="cli", reason=reason)
    workflow.sync_aliases(project, row.use_case)
    show({"champion": row.release.id, "previous": row.previous, "version": row.version}, output)


@app.command()
def serve(
    use_case: Annotated[list[str], typer.Argument(metavar="USE_CASE...")],
    port: int = 8000,
    simulated_time: Annotated[bool, typer.Option(help="take the present from each request's `at`")] = False,
) -> None:
    """Answer over HTTP on 127.0.0.1 until interrupted; a new champion is picked up while it runs."""
    from evermodel import workflow

    workflow.serve(Project.open(), use_case, port=port, simulated_time=simulated_time)


@app.command()
def predict(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END of the rows to score")],
    now: Now = "",
    output: Output = "table",
) -> None:
    """Score the rows of a window with the champion into Parquet."""
    from evermodel import workflow

    uri = workflow.predict_batch(Project.open(), use_case, window=parse_window(window), now=parse_time_or_now(now))
    show({"predictions": uri}, output)


@app.command()
def monitor(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END; empty: the last whole one")] = "",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Look at a window of answers; alerts go to the ledger."""
    from evermodel import workflow

    project, at = Project.open(), parse_time_or_now(now)
    _, case = project.find(use_case)
    looked_at = parse_window(window) or workflow.newest_window(case, now=at)
    report = workflow.monitor(project, use_case, window=looked_at, now=at)
    if output == "json":
        show(report.model_dump(mode="json"), output)
        return
    alerts = ", ".join(f"{alert.kind} ({alert.diagnosis})" for alert in report.alerts)
    show(
        {
            "window": str(report.window),
            "rows": report.rows,
            "matured": report.matured_rows,
            report.metric: report.performance,
            "reference": report.reference,
            "alerts": alerts or "none",
        },
        output,
    )


@app.command()
def decide(use_case: UseCaseName, now: Now = "", output: Output = "table") -> None:
    """Ask the policy whether to retrain, and why (or why not)."""
    from evermodel import workflow

    decision = workflow.decide(Project.open(), use_case, now=parse_time_or_now(now))
    show({**decision.model_dump(mode="json", exclude={"alerts"}), "retrain_key": decision.retrain_key}, output)


@app.command()
def retrain(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END; empty: all that is new to the champion")] = "",
    mode: str = "",
    reason: str = "asked for by hand",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Start the training pipeline; the result comes from the ledger; exit code 3 where the gate isn't passed."""
    from evermodel import workflow

    run = workflow.retrain(
        Project.open(), use_case, windows=window, mode=mode, reason=reason, now=parse_time_or_now(now)
    )
    show(run, output)
    if run["state"] == "failed":
        raise typer.Exit(1)
    if run["state"] != "promoted":
        raise typer.Exit(3)


@app.command()
def replay(
    use_case: UseCaseName,
    out: Annotated[Path, typer.Option(help="folder for replay.json, the plot and the models")],
    data: DataDir = ".",
    policy: Annotated[list[str] | None, typer.Option(help="stateful, from_scratch, static; several allowed")] = None,
    seed: Annotated[int | None, typer.Option(help="instead of the use case's")] = None,
    output: Output = "table",
) -> None:
    """Live a history as if it were happening, once a policy, and compare: how often should I retrain?"""
    from evermodel.backtest.backtest import POLICIES
    from evermodel.backtest.backtest import replay as live
    from evermodel.reports.charts import plot_backtest

    wanted = policy or list(POLICIES)
    for name in wanted:
        if name not in POLICIES:
            raise InputError(f"policy {name!r}: write one of {', '.join(POLICIES)}")
    case = use_cases.load(use_case if use_case.endswith((".yaml", ".yml")) else Project.open().find(use_case)[0])
    case = case if seed is None else use_cases.with_seed(case, seed)
    result = live(case, data_dir=data, out=out, policies=wanted, progress=progress)  # type: ignore[arg-type]
    plot_backtest(result, out / "replay.png")
    if output == "json":
        print(json.dumps(result))
        return
    show([{"policy": life["policy"], **life["totals"]} for life in result["policies"]], output)
    progress(f"{out / 'replay.json'}, {out / 'replay.png'}")


@app.command()
def status(use_case: Annotated[str, typer.Argument()] = "", now: Now = "", output: Output = "table") -> None:
    """Champion, its age, open alerts and runs of each use case."""
    from evermodel import workflow

    show(workflow.status(Project.open(), use_case or None, now=parse_time_or_now(now)), output)


@app.command()
def why(use_case: UseCaseName, output: Output = "table") -> None:
    """Why it did or did not retrain: the decision log, newest last."""
    project = Project.open()
    _, case = project.find(use_case)
    rows = [
        {
            "at": decision.at.isoformat(),
            "action": decision.action,
            "diagnosis": decision.diagnosis,
            "reason": decision.reason,
            "trigger": str(decision.trigger) if decision.trigger else None,
            "mode": decision.mode,
            "champion": decision.champion,
        }
        for decision in project.ledger().decisions(case.name)
    ]
    show(rows, output)


@app.command()
def ui(port: Annotated[int, typer.Option(help="of 127.0.0.1")] = 8080) -> None:
    """The ledger as a web page on 127.0.0.1, until interrupted: champions, decisions, retrain, promote, roll back."""
    from evermodel.control.__main__ import serve as show_page

    print(f"http://127.0.0.1:{port}", file=sys.stderr)
    show_page(Project.open(), port=port)


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="of the HTTP API while the demo runs")] = 8123,
    fresh: Annotated[bool, typer.Option(help="forget what an earlier demo has cached")] = False,
) -> None:
    """The whole loop on the shipped restaurants: serve, drift, alert, stateful retraining, promotion."""
    from evermodel.cli.demo import run_demo

    run_demo(Project.open(), port=port, fresh=fresh)


def main() -> None:
    """The entry point: errors of Evermodel are one message, not a trace."""
    try:
        app()
    except GateError as error:
        print(f"gate not passed: {error}", file=sys.stderr)
        sys.exit(3)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except EvermodelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
