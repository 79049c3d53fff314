"""An Evermodel in a namespace of its own, installed as its administrator would: secrets first, then the chart."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import subprocess
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from evermodel import use_case
from evermodel.cli.rank_client import build_rank_request
from evermodel.records import Window
from evermodel.simulation.simulator import Simulator
from tests.e2e.cluster import (
    Failed,
    Namespace,
    Object,
    api_server_peers,
    dns_peers,
    helm,
    node_addresses,
    outside_peers,
    run,
    until,
)
from tests.support import ROOT

CHART = ROOT / "helm" / "evermodel"
RELEASE = "evermodel"
USE_CASE = "restaurants"
NAMESPACE = os.environ.get("E2E_NAMESPACE", "evermodel-e2e")
CLIENTS = f"{NAMESPACE}-clients"  # the namespace of the load client: another one, with a label that serving lets in
FIRST_DAY = datetime(2026, 1, 19, tzinfo=UTC)  # after the history of the use case's simulator
SERVING_HEAD = "app.kubernetes.io/component=serving-head"
SERVING_WORKER = "app.kubernetes.io/component=serving-worker"
SECRETS = ("postgresql", "redis", "gcs-redis", "s3", "control", "serving", "caller")
ROLES = ("admin", "viewer", "alertmanager", "service")


@dataclass
class Deployment:
    """The release, the tokens that were made for it, and its images by digest."""

    space: Namespace
    clients: Namespace
    images: dict[str, str]
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    canaries: dict[str, str] = field(default_factory=dict, repr=False)  # every secret value, by where it is kept
    uninstalled: bool = False

    @classmethod
    def prepare(cls, images: dict[str, str]) -> Deployment:
        """Namespaces and Secrets, with values that are nowhere else: they must never be seen."""
        made = cls(Namespace(NAMESPACE), Namespace(CLIENTS), images)
        made.space.create()
        made.clients.create(**{"evermodel.io/load-client": "yes"})
        for name in ("postgresql", "redis", "gcs-redis"):
            made._secret(name, password=made._canary(name))
        access, secret = made._canary("s3-access"), made._canary("s3-secret")
        ini = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        made._secret("s3", credentials=ini, access_key=access, secret_key=secret)
        made.tokens = {role: made._canary(f"token-{role}") for role in (*ROLES, "caller")}
        made._secret(
            "control",
            tokens_dot_json=made._tokens(*ROLES),
            session_key=made._canary("session-key"),
            serving_token=made.tokens["service"],
        )
        made._secret("serving", tokens_dot_json=made._tokens("caller", "service"))
        made._secret("caller", token=made.tokens["caller"])
        made.clients.secret("caller", token=made.tokens["caller"])
        return made

    def _secret(self, name: str, **values: str) -> None:
        self.space.secret(f"evermodel-{name}", **values)

    def _canary(self, name: str) -> str:
        value = f"canary{secrets.token_hex(16)}"
        self.canaries[name] = value
        return value

    def _tokens(self, *roles: str) -> str:
        return json.dumps(
            [
                {"name": f"e2e-{role}", "role": role, "sha256": hashlib.sha256(self.tokens[role].encode()).hexdigest()}
                for role in roles
            ]
        )

    def values(self) -> Object:
        """What the chart needs here: images, the names of Secrets, and the cluster's own peers."""
        load_client: list[Object] = [{"namespaceSelector": {"matchLabels": {"evermodel.io/load-client": "yes"}}}]
        values: Object = yaml.safe_load((ROOT / "tests" / "e2e" / "values.yaml").read_text())
        for role, image in self.images.items():
            repository, _, digest = image.partition("@")
            values["images"][role] = {"repository": repository, "digest": digest}
        values["networkPolicy"] = {
            "dns": dns_peers(),
            "apiServer": api_server_peers(),
            "ingress": {"serving": [*load_client, *outside_peers()], "kafka": load_client},
        }
        if endpoint := os.environ.get("E2E_KFP_ENDPOINT"):  # a Kubeflow Pipelines that asks for no token
            kfp = {"endpoint": endpoint, "namespace": os.environ.get("E2E_KFP_NAMESPACE", "")}
            values["project"] = {"launcher": "kfp", "kfp": kfp}
            values["networkPolicy"]["egress"] = {"kfp": [{"namespaceSelector": {}}]}
        return values

    def install(self, *extra: str, values: Object | None = None, chart: Path = CHART) -> str:
        """`helm upgrade --install`, with the values on stdin; what helm said."""
        text = ROOT / "use_cases" / f"{USE_CASE}.yaml"
        return helm(
            "upgrade", "--install", RELEASE, str(chart), "-n", self.space.name, "-f", "-",
            "--set-file", f"useCases.{USE_CASE}={text}", "--timeout", "10m", *extra,
            said=yaml.safe_dump(values or self.values()),
        )  # fmt: skip

    def wait_ready(self, seconds: float = 600) -> None:
        """Until all is whole."""
        until("all pods ready, and serving in one piece", lambda: self.whole() or None, seconds=seconds, every=2)

    def whole(self) -> bool:
        """Every pod is ready (or has succeeded), and serving is one Ray cluster with both workers in the Service."""
        return (
            not self.space.not_ready()
            and len(self.space.list("rayclusters", f"ray.io/originated-from-cr-name={RELEASE}-serving")) == 1
            and len(self.space.ready_pods(SERVING_HEAD)) == 1
            and len(self.endpoints()) == len(self.space.ready_pods(SERVING_WORKER)) == 2
        )

    def endpoints(self) -> list[str]:
        """Addresses of the serving pods that get traffic."""
        found = json.loads(
            self.space.kubectl(
                "get", "endpointslices", "-l", f"kubernetes.io/service-name={self.serving_service}", "-o", "json"
            )
        )
        points = [point for one in found["items"] for point in one.get("endpoints") or []]
        return sorted(address for point in points if point["conditions"].get("ready") for address in point["addresses"])

    @property
    def serving_service(self) -> str:
        return f"{RELEASE}-serving-serve-svc"

    @property
    def serving_url(self) -> str:
        return f"http://{self.serving_service}.{self.space.name}.svc:8000"

    @property
    def secrets(self) -> list[str]:
        """The Secrets that its administrator made."""
        return [f"{RELEASE}-{name}" for name in SECRETS]

    @property
    def outside_url(self) -> str:
        """Serving's NodePort, from outside of the cluster."""
        (port,) = self.space.get("service", self.serving_service)["spec"]["ports"]
        return f"http://{node_addresses()[0]}:{port['nodePort']}"

    def ingested(self) -> dict[str, float]:
        """Rows of each topic that the ingester has put into the event log since it started, as its metrics say."""
        with self.space.forward(f"svc/{RELEASE}-ingester", 9100) as url:
            text = run("curl", "-s", f"{url}/metrics")
        applied = r'^evermodel_stream_rows_total\{outcome="applied",topic="([^"]+)"\} (\S+)$'
        return {topic: float(rows) for topic, rows in re.findall(applied, text, re.MULTILINE)}

    def champion(self) -> str | None:
        """The champion's id, as the ledger has it."""
        (row,) = self.evermodel("status", USE_CASE)
        champion: str | None = row["champion"]
        return champion

    def live(self) -> set[str | None]:
        """The releases that answer a few requests: None for the fallback."""
        body, found = json.dumps(self.example()), set()
        with self.space.forward(f"svc/{self.serving_service}", 8000) as url:
            for _ in range(6):
                said = run("curl", "-s", "-H", f"authorization: Bearer {self.tokens['caller']}",
                           "-H", "content-type: application/json", "-d", body, f"{url}/v1/{USE_CASE}/rank")  # fmt: skip
                found.add(json.loads(said)["release"])
        return found

    def read_state(self, place: str, to: Path) -> None:
        """Copy a folder of the state to this machine."""
        script = (ROOT / "tests" / "e2e" / "state.py").read_bytes()
        command = ["kubectl", "-n", self.space.name, "exec", "-i", f"deploy/{RELEASE}-control", "-c", "control"]
        done = subprocess.run([*command, "--", "python", "-", place], input=script, capture_output=True, timeout=300)
        if done.returncode != 0:
            raise Failed(done.stderr.decode()[-2000:])
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(to, filter="data")

    def control(self, *command: str, timeout: float = 600) -> str:
        """Run something where the control service runs, with its project and rights."""
        return self.space.exec(f"deploy/{RELEASE}-control", *command, timeout=timeout)

    def evermodel(self, *words: str, timeout: float = 900) -> Any:
        """A verb of the command line, run there; its JSON."""
        return json.loads(self.control("python", "-m", "evermodel.cli", *words, "-o", "json", timeout=timeout))

    @staticmethod
    def example() -> Any:
        """The body of a ranking as a visitor asks for it, on a day that nobody monitors: the last one of the history."""
        case = use_case.load(ROOT / "use_cases" / f"{USE_CASE}.yaml")
        candidates = Simulator(case).requests(Window(start=FIRST_DAY - timedelta(hours=12), end=FIRST_DAY)).to_pylist()
        first = [row for row in candidates if row[case.predict.group] == candidates[0][case.predict.group]]
        return json.loads(build_rank_request(case, first, k=5))


def remove() -> None:
    """Uninstall, and delete both namespaces."""
    helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "5m", check=False)
    run("kubectl", "delete", "namespace", NAMESPACE, CLIENTS, "--ignore-not-found", "--wait=true", timeout=300)
