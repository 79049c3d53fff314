"""Verbs for training: `train`, `evaluate`, `promote`, `rollback`, `retrain` and `backtest`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evermodel import use_case as use_cases
from evermodel import workflow
from evermodel.cli.output import DataDir, Now, Output, RunKey, UseCaseName, progress, show
from evermodel.errors import EvermodelError, InputError
from evermodel.ledger.lease import this_process
from evermodel.parsing import parse_time_or_now, parse_windows
from evermodel.run_folder import RunFolder
from evermodel.workflow import Project

GATE_NOT_PASSED = 3


def train(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END, several joined by commas; empty: all new rows")] = "",
    mode: Annotated[str, typer.Option(help="stateful or from_scratch; empty: stateful if there is a champion")] = "",
    parent: Annotated[str, typer.Option(help="champion, none, or a release id")] = "champion",
    reason: Annotated[str, typer.Option(help="why, for the training manifest")] = "",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Train a challenger in this process. It prints the run's key, which `evaluate` and `promote` take."""
    project, at = Project.open(), parse_time_or_now(now)
    plan = workflow.plan(
        project,
        use_case,
        now=at,
        windows=parse_windows(window),
        mode=workflow.parse_mode(mode),
        parent=parent,
        reason=reason,
    )
    if not workflow.claim(project, plan, owner=this_process("cli"), now=at):
        raise EvermodelError(
            f"run {plan.key} is finished, or another process works on it: evaluate it, or choose another window"
        )
    with project.recording(plan, "train", now=at):
        rows = workflow.build_training_set(project, plan)
        progress(f"training rows: {rows.rows}, rehearsal rows: {rows.rehearsal_rows}, gate rows: {rows.gate_rows}")
        release = workflow.train(project, plan, rows)
    show({"key": plan.key, "release": release.id, "rows": rows.rows, "home": release.home}, output)


def evaluate(use_case: UseCaseName, key: RunKey, output: Output = "table") -> None:
    """Judge a trained challenger against the champion. Exit code 3 if the gate is not passed."""
    project = Project.open()
    plan, rows, release = workflow.read_run(project, use_case, key)
    report = workflow.evaluate(project, plan, rows, release)
    show(
        {
            "verdict": report.verdict.word,
            "metric": report.metric,
            "challenger": report.metrics.get(report.metric),
            "champion": report.champion_metrics.get(report.metric),
            "reasons": "\n".join(report.verdict.reasons),
            "report": RunFolder(release.home).report_page,
        },
        output,
    )
    if report.verdict.word != "promote":
        raise typer.Exit(GATE_NOT_PASSED)


def promote(
    use_case: UseCaseName,
    key: RunKey,
    override: Annotated[str, typer.Option(help="promote against the gate, for this reason; it is recorded")] = "",
    output: Output = "table",
) -> None:
    """Make an evaluated challenger the champion. Exit code 3 if the gate is not passed."""
    project = Project.open()
    plan, _, release = workflow.read_run(project, use_case, key)
    report = workflow.read_report(release)
    workflow.register(project, plan, release, report)
    word = workflow.promote(project, plan, release, report, actor="cli", override=override or None)
    workflow.sync_aliases(project, plan.use_case)
    show({"release": release.id, "verdict": word}, output)
    if word != "promote":
        raise typer.Exit(GATE_NOT_PASSED)


def rollback(
    use_case: UseCaseName,
    reason: Annotated[str, typer.Option(help="why; it is recorded")],
    now: Now = "",
    output: Output = "table",
) -> None:
    """Make the previous champion the champion again."""
    project = Project.open()
    row = workflow.rollback(project, use_case, now=parse_time_or_now(now), actor="cli", reason=reason)
    workflow.sync_aliases(project, row.use_case)
    show({"champion": row.release.id, "previous": row.previous, "version": row.version}, output)


def retrain(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END; empty: all rows that are new to the champion")] = "",
    mode: Annotated[str, typer.Option(help="stateful or from_scratch; empty: stateful if there is a champion")] = "",
    reason: Annotated[str, typer.Option(help="why, for the training manifest")] = "requested by hand",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Run the training pipeline to its end. Exit code 3 if the gate is not passed."""
    run = workflow.retrain(
        Project.open(), use_case, windows=window, mode=mode, reason=reason, now=parse_time_or_now(now)
    )
    show(run, output)
    if run["state"] == "failed":
        raise typer.Exit(1)
    if run["state"] != "promoted":
        raise typer.Exit(GATE_NOT_PASSED)


def backtest(
    use_case: UseCaseName,
    out: Annotated[Path, typer.Option(help="folder for backtest.json, backtest.png and the models")],
    data: DataDir = ".",
    policy: Annotated[list[str] | None, typer.Option(help="stateful, from_scratch, static; repeat for several")] = None,
    seed: Annotated[int | None, typer.Option(help="used instead of the use case's seed")] = None,
    output: Output = "table",
) -> None:
    """Simulate the history under several retraining policies. The result compares the policies."""
    from evermodel.backtest.backtest import POLICIES, run_backtest
    from evermodel.reports.charts import plot_backtest

    policies = policy or list(POLICIES)
    for name in policies:
        if name not in POLICIES:
            raise InputError(f"policy {name!r}: write one of {', '.join(POLICIES)}")
    case = use_cases.load(use_case if use_case.endswith((".yaml", ".yml")) else Project.open().find(use_case)[0])
    case = case if seed is None else use_cases.with_seed(case, seed)
    result = run_backtest(case, data_dir=data, out=out, policies=policies, progress=progress)  # type: ignore[arg-type]
    plot_backtest(result, out / "backtest.png")
    if output == "json":
        print(json.dumps(result))
        return
    show([{"policy": one["policy"], **one["totals"]} for one in result["policies"]], output)
    progress(f"{out / 'backtest.json'}, {out / 'backtest.png'}")
