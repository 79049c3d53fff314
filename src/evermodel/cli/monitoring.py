"""Verbs for monitoring: `monitor`, `decide`, `decisions` and `status`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from evermodel import workflow
from evermodel.cli.output import Now, Output, UseCaseName, show
from evermodel.parsing import parse_time_or_now, parse_window
from evermodel.workflow import Project


def monitor(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END; empty: the newest whole window")] = "",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Compare a window of answers with the reference. Alerts are recorded in the ledger."""
    project, at = Project.open(), parse_time_or_now(now)
    _, case = project.find(use_case)
    monitored = parse_window(window) or workflow.newest_window(case, now=at)
    report = workflow.monitor(project, use_case, window=monitored, now=at)
    if output == "json":
        show(report.model_dump(mode="json"), output)
        return
    alerts = ", ".join(f"{alert.kind} ({alert.diagnosis or 'no diagnosis'})" for alert in report.alerts)
    show(
        {
            "window": report.window,
            "rows": report.rows,
            "matured": report.matured_rows,
            report.metric: report.performance,
            "reference": report.reference,
            "alerts": alerts or "none",
        },
        output,
    )


def decide(use_case: UseCaseName, now: Now = "", output: Output = "table") -> None:
    """Decide by the policy whether to retrain. The decision is recorded with its reason."""
    decision = workflow.decide(Project.open(), use_case, now=parse_time_or_now(now))
    if output == "json":
        show({**decision.model_dump(mode="json", exclude={"alerts"}), "retrain_key": decision.retrain_key}, output)
        return
    show(
        {
            "action": decision.action,
            "diagnosis": decision.diagnosis,
            "reason": decision.reason,
            "trigger": decision.trigger,
            "windows": decision.windows,
            "mode": decision.mode,
            "champion": decision.champion,
            "retrain_key": decision.retrain_key,
        },
        output,
    )


def decisions(use_case: UseCaseName, output: Output = "table") -> None:
    """Show why it did or did not retrain. These are the recorded decisions, newest last."""
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


def status(
    use_case: Annotated[str, typer.Argument(help="empty: every use case of the project")] = "",
    now: Now = "",
    output: Output = "table",
) -> None:
    """Show each use case's champion, its age, alerts and last run."""
    rows = workflow.status(Project.open(), use_case or None, now=parse_time_or_now(now))
    if output == "table":
        rows = [_with_age(row) for row in rows]
    show(rows, output)


def _with_age(row: dict[str, object]) -> dict[str, object]:
    """The row with its age as a duration."""
    days = row["age_days"]
    age = timedelta(days=days) if isinstance(days, (int, float)) else None
    return {
        ("age" if name == "age_days" else name): (age if name == "age_days" else value) for name, value in row.items()
    }
