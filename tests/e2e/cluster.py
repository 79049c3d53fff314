"""A cluster as its administrator sees it: kubectl and helm, and what they print. Nothing here knows which cluster it is."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

Object = dict[str, Any]
Found = TypeVar("Found")


class Failed(AssertionError):
    """A command of the cluster's that ended badly, or something that never came; with what was said."""


def missing() -> str | None:
    """Why there is no cluster to test on, or None."""
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            return f"{program} is not on PATH"
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster (see `make cluster`)"
    return None


def run(*command: str, said: str | None = None, timeout: float = 300, check: bool = True) -> str:
    """A program's stdout; Failed with both of its outputs where it ends badly."""
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def until(what: str, look: Callable[[], Found | None], *, seconds: float, every: float = 1.0) -> Found:
    """What `look` gives as soon as it gives something; Failed after so many seconds, with the last error."""
    end, error = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            if (found := look()) not in (None, False):
                return found  # type: ignore[return-value]
        except (Failed, OSError, KeyError, IndexError, ValueError) as why:
            error = str(why)
        time.sleep(every)
    raise Failed(f"{what}: not within {seconds:.0f} s. {error}")


@dataclass(frozen=True)
class Namespace:
    """One namespace of the cluster that KUBECONFIG names."""

    name: str

    def kubectl(self, *args: str, said: str | None = None, timeout: float = 300, check: bool = True) -> str:
        return run("kubectl", "-n", self.name, *args, said=said, timeout=timeout, check=check)

    def create(self, **labels: str) -> None:
        """The namespace, with every pod held to the restricted standard."""
        restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": self.name, "labels": {**restricted, **labels}},
            }
        )

    def apply(self, *objects: Object) -> None:
        self.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", said="\n---\n".join(map(json.dumps, objects))
        )

    def secret(self, name: str, **values: str | bytes) -> None:
        """A Secret; an underscore in a key is a dash, `_dot_` a dot."""
        raw = {key: value.encode() if isinstance(value, str) else value for key, value in values.items()}
        data = {
            key.replace("_dot_", ".").replace("_", "-"): base64.b64encode(value).decode() for key, value in raw.items()
        }
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        found: list[Object] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def pods(self, selector: str) -> list[Object]:
        """Those that aren't on their way out."""
        return [pod for pod in self.list("pods", selector) if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, selector: str) -> list[Object]:
        return [pod for pod in self.pods(selector) if is_ready(pod)]

    def not_ready(self) -> list[str]:
        """The pods that aren't ready, with why; those that have ended, well or not, were never to be."""
        return [
            f"{pod['metadata']['name']}: {why(pod)}"
            for pod in self.pods("")
            if not is_ready(pod) and pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def exec(self, pod: str, *command: str, container: str = "", timeout: float = 120) -> str:
        chosen = ["-c", container] if container else []
        return self.kubectl("exec", pod, *chosen, "--", *command, timeout=timeout)

    def logs(self, pod: str, *args: str) -> str:
        return self.kubectl("logs", pod, "--all-containers", *args, check=False)

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """`http://127.0.0.1:PORT` of a Service's or pod's port, for as long as the block lasts."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            local = int(probe.getsockname()[1])
        command = ["kubectl", "-n", self.name, "port-forward", target, f"{local}:{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if "Forwarding" not in line:
                    raise Failed(f"{' '.join(command)}: {line}{process.stdout.read()}")
                yield f"http://127.0.0.1:{local}"
            finally:
                process.terminate()


def is_ready(pod: Object) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def why(pod: Object) -> str:
    """Why a pod isn't ready, in a line."""
    statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
    said = [
        f"{status['name']} {next(iter(status['state']))} {detail.get('reason', '')} {detail.get('message', '')}"
        for status in statuses
        for detail in status["state"].values()
        if not status.get("ready")
    ]
    return "; ".join(said) or str(pod["status"].get("phase"))


def node_of(pod: Object) -> str:
    return str(pod["spec"].get("nodeName"))


def name_of(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def api_server_peers() -> list[Object]:
    """The NetworkPolicy peers of the API server: the addresses behind the Service `kubernetes`."""
    slices = json.loads(
        run(
            "kubectl",
            "-n",
            "default",
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=kubernetes",
            "-o",
            "json",
        )
    )["items"]
    addresses = sorted({address for one in slices for point in one["endpoints"] for address in point["addresses"]})
    return [{"ipBlock": {"cidr": f"{address}/32"}} for address in addresses]


def dns_peers() -> list[Object]:
    """The NetworkPolicy peers of the cluster's DNS: its pods, or where it isn't one, the address that kubelets give out."""
    if Namespace("kube-system").list("pods", "k8s-app=kube-dns"):
        kube_system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
        return [{"namespaceSelector": kube_system, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]
    node = nodes()[0]
    configuration = json.loads(run("kubectl", "get", "--raw", f"/api/v1/nodes/{node}/proxy/configz"))
    return [{"ipBlock": {"cidr": f"{address}/32"}} for address in configuration["kubeletconfig"]["clusterDNS"]]


def node_addresses() -> list[str]:
    """The nodes' own addresses."""
    found = json.loads(run("kubectl", "get", "nodes", "-o", "json"))["items"]
    return [one["address"] for node in found for one in node["status"]["addresses"] if one["type"] == "InternalIP"]


def outside_peers() -> list[Object]:
    """The NetworkPolicy peers of this machine at a NodePort: its own address, and those that a node may put in its place."""
    found = set(node_addresses())
    for address in list(found):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            found.add(probe.getsockname()[0])
    return [{"ipBlock": {"cidr": f"{address}/32"}} for address in sorted(found)]


def nodes() -> list[str]:
    """The nodes that pods can be put on."""
    found = json.loads(run("kubectl", "get", "nodes", "-o", "json"))["items"]
    return [name_of(node) for node in found if not node["spec"].get("taints") and not node["spec"].get("unschedulable")]


def helm(*args: str, said: str | None = None, timeout: float = 900, check: bool = True) -> str:
    """Helm 4 applies on the server, where the operator and the control service have written to the RayService, too."""
    forced = ["--force-conflicts"] if args[0] in ("upgrade", "rollback") and _helm_major() >= 4 else []
    return run("helm", *args, *forced, said=said, timeout=timeout, check=check)


@cache
def _helm_major() -> int:
    return int(run("helm", "version", "--template", "{{.Version}}").lstrip("v").partition(".")[0])


def names(objects: Sequence[Object]) -> list[str]:
    return sorted(name_of(one) for one in objects)
