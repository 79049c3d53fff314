"""Who reaches whom, tried out: a pod with each component's labels knocks at every port that anything of the release listens on.

A probe carries its component's labels, and with them its NetworkPolicies; a readiness gate that nobody ever opens keeps it
out of every Service. Ports are read from the pods' own socket tables: a port that the chart forgot is tried like any other.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.e2e.cluster import Namespace, Object, name_of, run, until
from tests.e2e.deployment import RELEASE, Deployment

PORT, RAY_PORTS = 8080, (6379, 8080, 8265, 52365)
LISTEN = """
import socket, sys, threading
def serve(port):
    server = socket.create_server(("", port))
    while True:
        server.accept()[0].close()
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(port),)).start()
"""
KNOCK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def knock(address):
    try:
        socket.create_connection(address, 2).close()
    except OSError:
        return False
    return True
asked = [tuple(address) for address in json.load(sys.stdin)]
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(knock, asked))))
"""
MARK = "evermodel.io/probe"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
Address = tuple[str, int]
Columns = dict[str, set[Address]]


@dataclass(frozen=True)
class Probe:
    """A pod that listens, and knocks when it is asked to."""

    name: str
    space: Namespace
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[int] = (PORT,)

    def manifest(self, image: str) -> Object:
        security = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"probe-{self.name}", "labels": {MARK: "yes", **self.labels}},
            "spec": {
                "readinessGates": [{"conditionType": f"{MARK}-is-never-ready"}],
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "probe",
                        "image": image,
                        "command": ["python", "-c", LISTEN, *map(str, self.ports)],
                        "securityContext": security,
                        "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "96Mi"}},
                    }
                ],
            },
        }

    def knock(self, addresses: Sequence[Address]) -> list[bool]:
        """Whether each one opens within 2 s."""
        command = ("exec", "-i", f"probe-{self.name}", "--", "python", "-c", KNOCK)
        answers: list[bool] = json.loads(self.space.kubectl(*command, said=json.dumps(addresses), timeout=60))
        return answers


def of_component(space: Namespace, component: str, *, name: str = "", ports: Sequence[int] = (PORT,)) -> Probe:
    labels = {"name": "evermodel", "instance": RELEASE, "component": component}
    return Probe(
        name or component, space, {f"app.kubernetes.io/{key}": value for key, value in labels.items()}, tuple(ports)
    )


@contextmanager
def running_probes(probes: Sequence[Probe], image: str) -> Iterator[dict[str, str]]:
    """The probes' addresses by name, while the block lasts."""
    spaces = {probe.space.name: probe.space for probe in probes}
    with ExitStack() as after:
        for space in spaces.values():
            remove = ("delete", "pods", "-l", f"{MARK}=yes", "--now", "--ignore-not-found")
            space.kubectl(*remove)
            after.callback(space.kubectl, *remove)
            space.apply(*(probe.manifest(image) for probe in probes if probe.space == space))

        def addresses() -> dict[str, str] | None:
            pods = [pod for space in spaces.values() for pod in space.list("pods", f"{MARK}=yes")]
            started = [pod for pod in pods if any(one.get("started") for one in pod["status"]["containerStatuses"])]
            found = {name_of(pod).removeprefix("probe-"): str(pod["status"]["podIP"]) for pod in started}
            return found if len(found) == len(probes) else None

        yield until("every probe running", addresses, seconds=120)


def listening(space: Namespace, pod: str, container: str) -> set[int]:
    """The TCP ports of a pod that another pod can knock at, as its kernel lists them."""
    table = space.exec(pod, "cat", "/proc/net/tcp", "/proc/net/tcp6", container=container)
    rows = [line.split() for line in table.splitlines()]
    doors = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {int(port, 16) for address, port in doors if address not in LOOPBACK}


def running(deployment: Deployment) -> list[Object]:
    """The release's own pods that run now."""
    pods = deployment.space.pods(f"app.kubernetes.io/instance={RELEASE},!{MARK}")
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]


def component_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def doors(deployment: Deployment, *, named: Container[str], more: Iterable[tuple[str, str, int]] = ()) -> Columns:
    """COMPONENT:PORT to the addresses where it can be had: each pod's own, and the Services' in front of them. A port that
    isn't `named` is one of COMPONENT:*. `more`: (component, address, port) of pods that stand for what doesn't run now."""
    pods, found = running(deployment), Columns()

    def column(component: str, port: int) -> set[Address]:
        name = f"{component}:{port}"
        return found.setdefault(name if name in named else f"{component}:*", set())

    by_address = {str(pod["status"]["podIP"]): component_of(pod) for pod in pods}
    for component, address, port in more:
        column(component, port).add((address, port))
    for pod in pods:
        for port in listening(deployment.space, name_of(pod), pod["spec"]["containers"][0]["name"]):
            column(component_of(pod), port).add((str(pod["status"]["podIP"]), port))
    for service in deployment.space.list("services"):
        if (address := service["spec"]["clusterIP"]) == "None":
            continue  # its name stands for the pods' own addresses
        slices = deployment.space.list("endpointslices", f"kubernetes.io/service-name={name_of(service)}")
        ends = [(one, end) for one in slices for end in one.get("endpoints") or [] if end["conditions"].get("ready")]
        assert ends, f"nothing is behind the Service {name_of(service)}"
        part, behind = ends[0]
        target = {one.get("name"): int(one["port"]) for one in part["ports"]}
        for port in service["spec"]["ports"]:
            inside = target[port.get("name")]
            column(by_address[behind["addresses"][0]], inside).add((str(address), int(port["port"])))
    return found


def api_server() -> Address:
    """Where pods reach the API server."""
    service = json.loads(run("kubectl", "-n", "default", "get", "service", "kubernetes", "-o", "json"))
    return str(service["spec"]["clusterIP"]), int(service["spec"]["ports"][0]["port"])


Matrix = dict[str, dict[str, str]]


def knock_all(probes: Sequence[Probe], own: Mapping[str, str], columns: Mapping[str, set[Address]]) -> Matrix:
    """By row and column: `open`, `shut`, `half` (some of a column's addresses), `self` where there is but the probe's own."""

    def row(probe: Probe) -> dict[str, str]:
        others = {name: sorted(at for at in column if at[0] != own[probe.name]) for name, column in columns.items()}
        answers = iter(probe.knock([address for column in others.values() for address in column]))
        words = {}
        for name, column in others.items():
            opened = [next(answers) for _ in column]
            words[name] = "self" if not opened else "open" if all(opened) else "half" if any(opened) else "shut"
        return words

    with ThreadPoolExecutor(4) as pool:
        return dict(zip((probe.name for probe in probes), pool.map(row, probes), strict=True))


def drawn(matrix: Matrix) -> str:
    """Rows from, columns to: numbers above, their names below."""
    signs = {"open": "x", "shut": "·", "half": "?", "self": "="}
    columns = list(next(iter(matrix.values())))
    lines = [f"{'':15}" + "".join(f"{number:3}" for number in range(1, len(columns) + 1))]
    lines += [f"{name:15}" + "".join(f"{signs[row[column]]:>3}" for column in columns) for name, row in matrix.items()]
    lines += [f"{number:3} {column}" for number, column in enumerate(columns, 1)]
    return "\n".join(["x connects  · doesn't  = itself  ? at some of its addresses only", *lines])
