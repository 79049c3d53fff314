"""Options that mean the same in every verb, and how a result is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

UseCaseName = Annotated[str, typer.Argument(metavar="USE_CASE", help="name, path or URI of a use-case file")]
UseCaseNames = Annotated[list[str], typer.Argument(metavar="USE_CASE...", help="names, paths or URIs")]
RunKey = Annotated[str, typer.Argument(help="the run's key, as `train` prints it")]
DataDir = Annotated[str, typer.Option("--data", help="folder that the sources' paths are relative to")]
Now = Annotated[str, typer.Option("--now", help="the time that the command takes as the present; empty: the clock's")]
Output = Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="table or json")]


def show(rows: Sequence[dict[str, Any]] | dict[str, Any], output: str) -> None:
    """Print rows as a table, or as JSON for a program."""
    if output == "json":
        print(json.dumps(rows, indent=2, default=str))
        return
    listed = [rows] if isinstance(rows, dict) else list(rows)
    if not listed:
        print("no rows")
        return
    table = Table(box=None, pad_edge=False)
    for name in listed[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in listed:
        table.add_row(*map(format_cell, row.values()))
    console().print(table)


def format_cell(value: Any) -> str:
    """A value as a person reads it: nothing for None, days for a duration."""
    if value is None:
        return ""
    if isinstance(value, timedelta):
        return f"{value / timedelta(days=1):.1f} days"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def console() -> Console:
    """Standard output; 200 columns wide if it isn't a terminal."""
    return Console(width=None if sys.stdout.isatty() else 200)


def progress(message: str) -> None:
    """Print one line to stderr if it is a terminal; nothing in a pipe."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr)
