"""The verbs that come in groups: `features`, `config` and `ledger`, what a project's upkeep is made of."""

from __future__ import annotations

import json
from typing import Annotated

import typer
import yaml

from evermodel import use_case as use_cases
from evermodel.cli.output import Now, Output, UseCaseName, show
from evermodel.parsing import parse_time_or_now
from evermodel.workflow import Project

features = typer.Typer(no_args_is_help=True, help="Feature definitions and the online store.")
config = typer.Typer(no_args_is_help=True, help="What is in force, and what may be written.")
ledger = typer.Typer(no_args_is_help=True, help="The ledger's own upkeep.")


@features.command("apply")
def features_apply(output: Output = "table") -> None:
    """Register the features of every use case with the feature store."""
    from evermodel import workflow

    show([{"registered": name} for name in workflow.apply_features(Project.open())], output)


@features.command("materialize")
def features_materialize(use_case: UseCaseName, now: Now = "", output: Output = "table") -> None:
    """Bring the online store up to date."""
    from evermodel import workflow

    show(
        {"use_case": use_case, "entities": workflow.materialize(Project.open(), use_case, now=parse_time_or_now(now))},
        output,
    )


@features.command("show")
def features_show(
    use_case: UseCaseName,
    entity: Annotated[str, typer.Option(help="entity:id, such as restaurant:r7; empty: the definitions")] = "",
    output: Output = "table",
) -> None:
    """The features of a use case, or what the online store holds for one id."""
    project = Project.open()
    _, case = project.find(use_case)
    if entity:
        from evermodel.features.online_store import OnlineStore

        name, _, key = entity.partition(":")
        profile = project.profile
        store = OnlineStore(case, profile.online_features, password_file=profile.online_store_password_file)
        show(store.read(name, [key], timeout_s=5.0).to_pylist(), output)
        return
    rows = [
        {"feature": column, "kind": feature.kind, "encode": feature.encode, "missing": feature.missing}
        for feature in case.features
        for column in use_cases.feature_columns(feature)
    ]
    show(rows, output)


@config.command("show")
def config_show(use_case: Annotated[str, typer.Argument()] = "") -> None:
    """The profile, or a use case with every default filled in, as YAML."""
    project = Project.open()
    value = project.find(use_case)[1] if use_case else project.profile
    print(yaml.safe_dump(value.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")


@config.command("schema")
def config_schema() -> None:
    """JSON Schema of the use-case file, for editors."""
    print(json.dumps(use_cases.json_schema(), indent=2))


@ledger.command("migrate")
def ledger_migrate(output: Output = "table") -> None:
    """Bring the ledger's tables up to this version's: before a new version starts, while the old one still runs."""
    from evermodel.ledger.migrate import migrate

    before, after = migrate(Project.open().profile.ledger_url)
    show({"before": before or "none", "now": after}, output)
