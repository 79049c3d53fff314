"""Verbs for a project as a whole: `init`, `ui`, `demo` and the groups `config` and `ledger`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from evermodel import use_case as use_cases
from evermodel.cli.output import Output, show
from evermodel.workflow import Project

config = typer.Typer(no_args_is_help=True, help="The settings in force, and the schema of a use-case file.")
ledger = typer.Typer(no_args_is_help=True, help="Maintenance of the ledger.")


def init(
    name: Annotated[str, typer.Argument(help="a new or empty folder")],
    template: Annotated[str, typer.Option(help="electricity, entree, fraud or restaurants")] = "restaurants",
) -> None:
    """Write a complete project into the folder NAME."""
    from evermodel.scaffold import write_project

    for path in write_project(Path(name), template):
        print(path)


def ui(port: Annotated[int, typer.Option(help="port on 127.0.0.1")] = 8080) -> None:
    """Serve the ledger's web page on 127.0.0.1 until interrupted. It can retrain, promote and roll back."""
    from evermodel.control.__main__ import serve as serve_pages

    print(f"http://127.0.0.1:{port}", file=sys.stderr)
    serve_pages(Project.open(), port=port)


def demo(
    port: Annotated[int, typer.Option(help="port of the HTTP API while the demo runs")] = 8123,
    fresh: Annotated[bool, typer.Option(help="delete what an earlier demo has left")] = False,
) -> None:
    """Run the whole loop on simulated restaurants. It serves, meets drift, alerts, retrains and promotes."""
    from evermodel.cli.demo import run_demo

    run_demo(Project.open(), port=port, fresh=fresh)


@config.command("show")
def config_show(use_case: Annotated[str, typer.Argument(help="empty: the profile")] = "") -> None:
    """Print the profile, or a use case with every default filled in, as YAML."""
    project = Project.open()
    value = project.find(use_case)[1] if use_case else project.profile
    print(yaml.safe_dump(value.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the use-case file, for editors."""
    print(json.dumps(use_cases.json_schema(), indent=2))


@ledger.command("migrate")
def ledger_migrate(output: Output = "table") -> None:
    """Bring the ledger's tables up to this version. Run it before the new version starts; the old one may still run."""
    from evermodel.ledger.migrate import migrate

    before, after = migrate(Project.open().profile.ledger_url)
    show({"before": before or "none", "now": after}, output)
