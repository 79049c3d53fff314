"""The command line: one verb for each stage. The verbs are functions of the modules beside this one.

Data goes to stdout, progress to stderr and only to a terminal. Exit codes: 0 success, 1 failure, 2 wrong usage, 3 gate
not passed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from evermodel.cli import data, monitoring, project, serving, training
from evermodel.errors import EvermodelError, GateError, InputError

VERBS: dict[str, Callable[..., None]] = {
    "init": project.init,
    "ingest": data.ingest,
    "ingest-stream": data.ingest_stream,
    "train": training.train,
    "evaluate": training.evaluate,
    "promote": training.promote,
    "rollback": training.rollback,
    "serve": serving.serve,
    "predict": serving.predict,
    "monitor": monitoring.monitor,
    "decide": monitoring.decide,
    "decisions": monitoring.decisions,
    "retrain": training.retrain,
    "status": monitoring.status,
    "backtest": training.backtest,
    "ui": project.ui,
    "demo": project.demo,
}
# They still work, but no help page names them.
OLD_VERBS: dict[str, Callable[..., None]] = {
    "replay": training.backtest,
    "why": monitoring.decisions,
}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keep a model in production fresh.", rich_markup_mode=None
)
for name, verb in VERBS.items():
    app.command(name)(verb)
for name, verb in OLD_VERBS.items():
    app.command(name, hidden=True)(verb)
app.add_typer(data.features, name="features")
app.add_typer(project.config, name="config")
app.add_typer(project.ledger, name="ledger")


def main() -> None:
    """The entry point. An error of Evermodel is one message, not a traceback."""
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
