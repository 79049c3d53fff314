"""The world outside: a pod in another namespace that ranks over HTTP, sends events to Kafka, and makes load."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from evermodel.records import Window
from tests.e2e.cluster import node_of, until
from tests.e2e.deployment import FIRST_DAY, RELEASE, USE_CASE, Deployment
from tests.support import ROOT

HERE = Path(__file__).parent
POD = "load-client"
PROJECT = "/etc/evermodel/project"


HISTORY = Window(start=FIRST_DAY - timedelta(days=14), end=FIRST_DAY)


FIRST_RUN = ("--mode", "from_scratch", "--now", HISTORY.end.isoformat())


def live_day(number: int) -> Window:
    """The days after the history, from 0 on."""
    return Window(start=FIRST_DAY + timedelta(days=number), end=FIRST_DAY + timedelta(days=number + 1))


@dataclass(frozen=True)
class First:
    """How the first champion came to be: rows sent by topic, a copy of the event log as it was then, the run."""

    sent: dict[str, int]
    events: Path
    run: dict[str, Any]


@dataclass(frozen=True)
class LoadClient:
    """What the pod is asked to do."""

    deployment: Deployment

    def arrive(self) -> None:
        """Make the pod, or find it; its scripts are brought up to date. One of another image or node makes room."""
        space, node, image = self.deployment.clients, self._node(), self.deployment.images["control"]
        for pod in space.list("pods", f"app={POD}"):
            if (node_of(pod), pod["spec"]["containers"][0]["image"]) != (node, image):
                space.kubectl("delete", "pod", POD, "--wait=true")
        profile = {"state": "/tmp/state", "broker": f"{RELEASE}-kafka.{self.deployment.space.name}.svc:9092"}
        files = {
            "evermodel.yaml": yaml.safe_dump(profile),
            f"{USE_CASE}.yaml": (ROOT / "use_cases" / f"{USE_CASE}.yaml").read_text(),
            "load.py": (HERE / "load.py").read_text(),
            "marketplaces.py": (HERE / "marketplaces.py").read_text(),
        }
        paths = [{"key": name, "path": name} for name in files if name != f"{USE_CASE}.yaml"]
        paths.append({"key": f"{USE_CASE}.yaml", "path": f"use_cases/{USE_CASE}.yaml"})
        space.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": POD}, "data": files},
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": POD, "labels": {"app": POD}},
                "spec": {
                    "nodeName": node,
                    "restartPolicy": "Always",
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 1,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "fsGroup": 1000,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": POD,
                            "image": image,
                            "command": ["sleep", "infinity"],
                            "env": [{"name": "EVERMODEL_PROJECT", "value": PROJECT}],
                            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "volumeMounts": [
                                {"name": "files", "mountPath": PROJECT},
                                {"name": "token", "mountPath": "/etc/evermodel/secrets/caller"},
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "files", "configMap": {"name": POD, "items": paths}},
                        {"name": "token", "secret": {"secretName": "caller"}},
                    ],
                },
            },
        )
        until("the pod of the load client", lambda: space.ready_pods(f"app={POD}") or None, seconds=120)

    def _node(self) -> str:
        """Where the GCS Redis is: the other node is drained, since a volume on a node's own disk can't follow its pod."""
        (store,) = self.deployment.space.ready_pods("app.kubernetes.io/component=gcs-redis")
        return node_of(store)

    def history(self) -> dict[str, int]:
        """The weeks without a model, sent to Kafka, until they are in the event log; rows by topic."""
        return self._market("history", str(HISTORY))

    def live(self, window: Window) -> dict[str, int]:
        """LoadClient who are ranked for over HTTP, and what they do, sent to Kafka and taken in; rows by topic."""
        return self._market("live", str(window), self.deployment.serving_url)

    def _market(self, *words: str) -> dict[str, int]:
        before = self.deployment.ingested()
        said = self.deployment.clients.exec(POD, "python", f"{PROJECT}/marketplaces.py", *words, timeout=600)
        sent: dict[str, int] = json.loads(said.splitlines()[-1])

        def arrived() -> bool:
            now = self.deployment.ingested()
            return all(now.get(topic, 0.0) - before.get(topic, 0.0) >= rows for topic, rows in sent.items())

        until(f"{sent} in the event log", arrived, seconds=180)
        return sent

    @contextmanager
    def load(self, *, rate: float = 50, seconds: float = 600, url: str = "") -> Iterator[Load]:
        """Requests while the block lasts (`seconds` at most); what came of them is there after it."""
        asked = {
            "url": f"{url or self.deployment.serving_url}/v1/{USE_CASE}/rank",
            "rate": rate,
            "seconds": seconds,
            "body": self.deployment.example(),
            "token_file": "/etc/evermodel/secrets/caller/token",
        }
        space, found = self.deployment.clients, Load()
        space.exec(POD, "rm", "-f", "/tmp/stop")
        command = ["kubectl", "-n", space.name, "exec", POD, "--", "python", f"{PROJECT}/load.py", json.dumps(asked)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield found
            finally:
                space.exec(POD, "touch", "/tmp/stop")
                try:
                    said, error = process.communicate(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
        if process.returncode != 0:
            raise AssertionError(f"the load client ended badly: {error[-2000:]}")
        found.result.update(json.loads(said.splitlines()[-1]))


class Load:
    """What the load client found: empty until its block has ended. `fault`: when one was made, in Unix seconds."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}
        self.fault = 0.0

    @property
    def failed_after(self) -> list[int]:
        """Seconds from the fault to each failure."""
        return [round(at - self.fault) for at in self.result["failed_at"]]

    def __str__(self) -> str:
        said = {**self.result, "failed_after": dict(Counter(self.failed_after))}
        return json.dumps({key: value for key, value in said.items() if key != "failed_at"})
