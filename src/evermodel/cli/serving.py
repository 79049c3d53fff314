"""Verbs for answers: `serve` over HTTP and `predict` for a window of rows."""

from __future__ import annotations

from typing import Annotated

import typer

from evermodel import workflow
from evermodel.cli.output import Now, Output, UseCaseName, UseCaseNames, show
from evermodel.parsing import parse_time_or_now, parse_window
from evermodel.workflow import Project


def serve(
    use_case: UseCaseNames,
    port: Annotated[int, typer.Option(help="port on 127.0.0.1")] = 8000,
    simulated_time: Annotated[bool, typer.Option(help="take the present from each request's `at`")] = False,
) -> None:
    """Answer over HTTP on 127.0.0.1 until interrupted. New champions are loaded while it runs."""
    workflow.serve(Project.open(), use_case, port=port, simulated_time=simulated_time)


def predict(
    use_case: UseCaseName,
    window: Annotated[str, typer.Option(help="START..END of the rows to score")],
    now: Now = "",
    output: Output = "table",
) -> None:
    """Score the rows of a window into Parquet with the champion."""
    uri = workflow.predict_batch(Project.open(), use_case, window=parse_window(window), now=parse_time_or_now(now))
    show({"predictions": uri}, output)
