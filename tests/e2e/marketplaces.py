"""The marketplace, run in a pod: clients that ask serving over HTTP, and what they do, as events in Kafka.

    python marketplaces.py history START..END     the weeks without a model, as the use case's simulator has them
    python marketplaces.py live START..END        requests ranked by whoever serves, then impressions and outcomes

Prints one line of JSON: the rows produced to each topic, and which releases answered. Events are sent as a producer of
any language would: one JSON object a row, times in ISO 8601, acknowledged by the broker before it counts.
"""

import json
import pathlib
import sys
from datetime import datetime

import pyarrow as pa
from confluent_kafka import Producer

from evermodel.cli.rank_client import rank_candidates
from evermodel.parsing import parse_window
from evermodel.simulation.config import simulation
from evermodel.simulation.simulator import Simulator
from evermodel.workflow import Project

NAME = "restaurants"


def produce(broker: str, tables: dict[str, pa.Table]) -> dict[str, int]:
    """Send every row; the rows that the broker has acknowledged, by topic."""
    producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": 20})
    failures: list[str] = []
    for name, table in tables.items():
        for row in table.to_pylist():
            text = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
            producer.produce(
                f"{NAME}.{name}",
                json.dumps({key: value for key, value in text.items() if value is not None}),
                on_delivery=lambda error, _: failures.append(str(error)) if error else None,
            )
            producer.poll(0)
    left = producer.flush(120)
    if left or failures:
        raise SystemExit(f"{left} events weren't acknowledged; {failures[:3]}")
    return {f"{NAME}.{name}": table.num_rows for name, table in tables.items()}


def main() -> None:
    verb, window = sys.argv[1], parse_window(sys.argv[2])
    assert window is not None
    project = Project.open()
    _, case = project.find(NAME)
    simulator = Simulator(case)
    if verb == "history":
        tables = simulator.history(window)
    else:
        candidates = simulator.requests(window)
        token = pathlib.Path("/etc/evermodel/secrets/caller/token").read_text().strip()
        scores = rank_candidates(case, candidates, sys.argv[3], token=token)
        impressions = simulator.shown(candidates, scores)
        tables = {case.predict.source: impressions, simulation(case).outcomes.source: simulator.outcomes(impressions)}
    print(json.dumps(produce(str(project.profile.broker), tables)))


if __name__ == "__main__":
    main()
