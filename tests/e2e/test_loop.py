"""The closed loop on two nodes: events through Kafka, features in Redis, training on Ray, a release that serving picks up,
drift, an alert, a decision, a stateful retraining run and its promotion. In order: each test goes on from the one before.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from cluster import nodes, run, until
from deployment import FIRST_DAY, Deployment
from visitors import Visitors

from evermodel.artifacts import Window
from evermodel.use_case import load

HISTORY = Window(start=FIRST_DAY - timedelta(days=14), end=FIRST_DAY)
DAY = timedelta(days=1)
NAME = "restaurants"


@pytest.fixture(scope="module")
def visitors(deployment: Deployment) -> Visitors:
    found = Visitors(deployment)
    found.arrive()
    return found


def ingested(deployment: Deployment) -> dict[str, float]:
    """Rows of each topic that are in the event log, as the ingester's metrics say."""
    with deployment.space.forward("svc/evermodel-ingester", 9100) as url:
        text = run("curl", "-s", f"{url}/metrics")
    applied = r'^evermodel_stream_rows_total\{outcome="applied",topic="([^"]+)"\} (\S+)$'
    return {topic: float(rows) for topic, rows in re.findall(applied, text, re.MULTILINE)}


def wait_for_events(deployment: Deployment, before: dict[str, float], sent: dict[str, int]) -> None:
    def arrived() -> bool:
        now = ingested(deployment)
        return all(now.get(topic, 0.0) - before.get(topic, 0.0) >= rows for topic, rows in sent.items())

    until(f"{sent} in the event log", arrived, seconds=180, every=2)


def live_day(deployment: Deployment, visitors: Visitors, number: int) -> str:
    """A day of visitors, then what the scheduler runs at its end; what was decided."""
    day = Window(start=FIRST_DAY + number * DAY, end=FIRST_DAY + (number + 1) * DAY)
    before = ingested(deployment)
    sent = visitors.live(day)
    wait_for_events(deployment, before, sent)
    return tick(deployment, day)


def tick(deployment: Deployment, day: Window) -> str:
    """The CronJob's own command, in its own pod, at the end of a day."""
    job = f"tick-{day.end:%m%d}"
    made = run(
        "kubectl", "-n", deployment.space.name, "create", "job", job, f"--from=cronjob/evermodel-monitoring-{NAME}",
        "--dry-run=client", "-o", "json",
    )  # fmt: skip
    import json

    manifest = json.loads(made)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["args"] = [*container.get("args", []), "--now", day.end.isoformat()]
    deployment.space.apply(manifest)

    def ended() -> dict[str, Any] | None:
        conditions = deployment.space.get("job", job)["status"].get("conditions", [])
        return next((one for one in conditions if one["type"] in ("Complete", "Failed")), None)

    end = until(f"job {job}", ended, seconds=1200, every=3)
    said = deployment.space.kubectl("logs", f"job/{job}", "--all-containers")
    assert end["type"] == "Complete", said
    return said


def test_history_arrives_through_kafka_once(deployment: Deployment, visitors: Visitors) -> None:
    before = ingested(deployment)
    sent = visitors.history(HISTORY)
    wait_for_events(deployment, before, sent)
    assert sent["restaurants.impressions"] > 20_000


def test_a_run_on_two_nodes_gives_the_first_champion(deployment: Deployment) -> None:
    case = load("use_cases/restaurants.yaml")
    done = deployment.evermodel("retrain", NAME, "--mode", "from_scratch", "--now", FIRST_DAY.isoformat(), timeout=1200)
    assert done["verdict"] == "promote", done
    assert len(nodes()) >= 2 and case
    assert {worker["node"] for worker in done["workers"]} and len({worker["node"] for worker in done["workers"]}) == 2
