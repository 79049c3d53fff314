"""What every verb shares: the options that have one meaning everywhere, and how a result is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

UseCaseName = Annotated[str, typer.Argument(metavar="USE_CASE", help="name, path or URI of a use-case file")]
DataDir = Annotated[str, typer.Option("--data", help="folder that the sources' paths are relative to")]
Now = Annotated[str, typer.Option("--now", help="what the command takes for the present; empty: the clock")]
Output = Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="table or json")]


def show(rows: Sequence[dict[str, Any]] | dict[str, Any], output: str) -> None:
    """Print rows as a table, or as JSON for a program."""
    if output == "json":
        print(json.dumps(rows, indent=2, default=str))
        return
    listed = [rows] if isinstance(rows, dict) else list(rows)
    if not listed:
        print("nothing")
        return
    table = Table(box=None, pad_edge=False)
    for name in listed[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in listed:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def progress(message: str) -> None:
    """One line for a person who watches; nothing in a pipe."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr)
