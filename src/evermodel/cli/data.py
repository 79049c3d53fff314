"""Verbs for data and features: `ingest`, `ingest-stream` and the group `features`."""

from __future__ import annotations

from typing import Annotated

import typer

from evermodel import clock, workflow
from evermodel import use_case as use_cases
from evermodel.cli.output import DataDir, Now, Output, UseCaseName, UseCaseNames, show
from evermodel.errors import InputError
from evermodel.parsing import parse_time_or_now
from evermodel.workflow import Project

features = typer.Typer(no_args_is_help=True, help="Feature definitions and the online store.")


def ingest(use_case: UseCaseName, data: DataDir = ".", now: Now = "", output: Output = "table") -> None:
    """Append the sources of a use case to its event log. Rows that are there already are counted, not applied."""
    reports = workflow.ingest(Project.open(), use_case, data_dir=data, now=parse_time_or_now(now))
    show([report.model_dump(mode="json") for report in reports], output)


def ingest_stream(
    use_case: UseCaseNames,
    host: Annotated[
        str, typer.Option(help="address of /metrics and /healthz, which give counts and no data")
    ] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="port of /metrics and /healthz")] = 9100,
    group: Annotated[str, typer.Option(help="Kafka's consumer group")] = "evermodel-ingester",
    batch_rows: Annotated[int, typer.Option(min=1, help="commit a batch at this number of rows")] = 5000,
    batch_seconds: Annotated[float, typer.Option(help="or this long after its first row")] = 2.0,
    refresh_seconds: Annotated[float, typer.Option(help="the least time between two updates of online features")] = 5.0,
    simulated_time: Annotated[bool, typer.Option(help="take the newest event's time as the present")] = False,
) -> None:
    """Read events from Kafka into the event logs until interrupted. A topic is named `<use case>.<source>`."""
    import logging

    from evermodel.streaming import kafka
    from evermodel.streaming.messages import newest_event_time, streams
    from evermodel.streaming.metrics import StreamStatus

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    project = Project.open()
    if project.profile.broker is None:
        raise InputError("the profile names no broker: write `broker: host:9092` into evermodel.yaml")
    cases = {case.name: (uri, case) for uri, case in map(project.find, use_case)}

    def refresh(name: str) -> None:
        uri, case = cases[name]
        newest = newest_event_time(case, project.log(case)) if simulated_time else None
        workflow.materialize(project, uri, now=newest or clock.now())

    ingester = kafka.StreamIngester(
        kafka.connect(project.profile.broker, group),
        [stream for _, case in cases.values() for stream in streams(case, project.log(case))],
        refresh=refresh,
        clock=clock.now,
        status=StreamStatus(),
        schedule=kafka.BatchSchedule(
            batch_rows=batch_rows, batch_seconds=batch_seconds, refresh_seconds=refresh_seconds
        ),
    )
    with ingester.status.serve(host, port):
        ingester.run(kafka.stop_on_signal())


@features.command("apply")
def features_apply(output: Output = "table") -> None:
    """Register the features of every use case with the feature store."""
    show([{"registered": name} for name in workflow.apply_features(Project.open())], output)


@features.command("materialize")
def features_materialize(use_case: UseCaseName, now: Now = "", output: Output = "table") -> None:
    """Bring the online store up to date."""
    entities = workflow.materialize(Project.open(), use_case, now=parse_time_or_now(now))
    show({"use_case": use_case, "entities": entities}, output)


@features.command("show")
def features_show(
    use_case: UseCaseName,
    entity: Annotated[str, typer.Option(help="entity:id, such as restaurant:r7; empty: the definitions")] = "",
    output: Output = "table",
) -> None:
    """Show the features of a use case, or the values that the online store holds for one id."""
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
