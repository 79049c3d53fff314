"""Run a history as if it were happening, once for each policy, and compare: how often should I retrain, and how?

In order of event time, the champion of the time serves each monitoring window. At the window's end the workflow's steps run
as in production: monitor with the labels that are known by then, decide, train, evaluate, promote. The new champion serves
from the next window on. Every policy starts from one identical first champion. All runs in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from evermodel import storage, workflow
from evermodel.backtest import report
from evermodel.backtest.history import History, Progress, read_history
from evermodel.backtest.project import BacktestProject
from evermodel.errors import EvermodelError
from evermodel.ledger import lease
from evermodel.records import Decision, EvaluationReport, Plan, Release, Window, canonical_json
from evermodel.use_case import UseCase

PolicyName = Literal["stateful", "from_scratch", "static"]
POLICIES: tuple[PolicyName, ...] = ("stateful", "from_scratch", "static")
RESULT = "backtest.json"
ACTOR = "backtest"


def run_backtest(
    use_case: UseCase,
    *,
    data_dir: str | Path,
    out: str | Path,
    policies: Sequence[PolicyName] = POLICIES,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Run every policy, write `backtest.json` to `out`, and return its content.

    EvermodelError if the use case has no `training.first`, or if its first champion fails its own checks.
    """
    if use_case.training.first is None:
        raise EvermodelError(f"{use_case.name}: a backtest needs training.first, the window of the first champion")
    history = read_history(use_case, data_dir=str(data_dir), out=str(out), progress=progress)
    first = train_first_champion(use_case, history, out=storage.join(str(out), "first"))
    _, champion, judged = first
    progress(f"first champion {champion.id}: {judged.metric} {judged.metrics[judged.metric]:.4f}")
    results = []
    for policy in policies:
        project, runs = _run_policy(use_case, history, first, policy, str(out), progress)
        results.append(report.describe_policy(policy, project, runs))
    result = {"use_case": use_case.name, "metric": use_case.evaluation.metric, "policies": results}
    storage.write_text(storage.join(str(out), RESULT), canonical_json(result))
    return result


def train_first_champion(use_case: UseCase, history: History, *, out: str) -> tuple[Plan, Release, EvaluationReport]:
    """Train and evaluate the champion that every policy starts from."""
    first = use_case.training.first
    assert first is not None
    project = BacktestProject.create(use_case, history, out)
    now = use_case.training.live or first.end
    plan = workflow.plan(project, use_case.name, now=now, reason="the first champion")
    release, judged = _train(project, plan)
    if judged.verdict.word != "promote":
        reasons = "; ".join(judged.verdict.reasons)
        raise EvermodelError(f"{use_case.name}: the first champion fails its gate: {reasons}")
    return plan, release, judged


def _run_policy(
    use_case: UseCase,
    history: History,
    first: tuple[Plan, Release, EvaluationReport],
    policy: PolicyName,
    out: str,
    progress: Progress,
) -> tuple[BacktestProject, list[report.TrainingRun]]:
    """One policy from the first champion to the end of the history; its project and its training runs."""
    mode = "from_scratch" if policy == "from_scratch" else "stateful"
    retraining = use_case.retraining.model_copy(update={"mode": mode})
    case = use_case.model_copy(update={"retraining": retraining})
    project = BacktestProject.create(case, history, storage.join(out, policy))
    plan, champion, judged = first
    _claim(project, plan)
    workflow.promote(project, plan, champion, judged, actor=ACTOR)
    runs: list[report.TrainingRun] = []
    start, step = champion.created, timedelta(microseconds=case.monitoring.window_length)
    while start < history.end:
        window = Window(start=start, end=start + step)
        if project.serve(window) and window.end < history.end:  # after the end a new champion would serve nobody
            workflow.monitor(project, case.name, window=window, now=window.end)
            decision = workflow.decide(project, case.name, now=window.end)
            if policy != "static" and decision.action == "retrain" and (run := _retrain(project, decision)):
                runs.append(run)
                progress(f"{policy} {window.end:%Y-%m-%d} {decision.diagnosis}: {run.word} ({run.seconds:.1f} s)")
        start = window.end
    return project, runs


def _retrain(project: BacktestProject, decision: Decision) -> report.TrainingRun | None:
    """The run of a decision, as the pipelines do it; None if its key ran before."""
    plan = workflow.plan_decision(project, decision)
    if not _claim(project, plan):
        return None
    release, judged = _train(project, plan)
    workflow.promote(project, plan, release, judged, actor=ACTOR)
    manifests = tuple(part.manifest for part in project.open_release(release).bundles.values())
    return report.TrainingRun(decision, plan, release, judged, manifests)


def _claim(project: BacktestProject, plan: Plan) -> bool:
    return workflow.claim(project, plan, owner=lease.this_process(ACTOR), now=plan.now)


def _train(project: BacktestProject, plan: Plan) -> tuple[Release, EvaluationReport]:
    rows = workflow.build_training_set(project, plan)
    release = workflow.train(project, plan, rows)
    return release, workflow.evaluate(project, plan, rows, release)
