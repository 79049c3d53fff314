"""SIGKILL of a container's first process, which nothing inside of the container can send: a pod on each node that sees
all of the node's processes, in a namespace of its own. Only an administrator can make it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from tests.e2e.cluster import Namespace, Object, node_of, nodes, run, until
from tests.e2e.deployment import NAMESPACE, Deployment

KILL = """
import os, pathlib, sys
for place in pathlib.Path("/proc").iterdir():
    try:
        if place.name.isdigit() and sys.argv[1] in (place / "cgroup").read_text():
            status = (place / "status").read_text()
            if status.partition("NSpid:")[2].splitlines()[0].split()[-1] == "1":
                os.kill(int(place.name), 9)
                sys.exit(0)
    except (FileNotFoundError, ProcessLookupError):
        pass
sys.exit("no first process of that container here")
"""


@dataclass(frozen=True)
class ProcessKiller:
    space: Namespace
    APP: ClassVar[str] = "process_killer"

    @classmethod
    @contextmanager
    def at_work(cls, deployment: Deployment) -> Iterator[ProcessKiller]:
        made = cls(Namespace(f"{NAMESPACE}-process_killer"))
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.space.name, "labels": {
            "pod-security.kubernetes.io/enforce": "privileged"}}}  # fmt: skip
        run("kubectl", "apply", "-f", "-", said=json.dumps(namespace))
        try:
            for node in nodes():
                made.space.apply(pod(node, deployment.images["control"]))
            until(
                "the surgeons' pods",
                lambda: len(made.space.ready_pods(f"app={cls.APP}")) == len(nodes()) or None,
                seconds=120,
            )
            yield made
        finally:
            run("kubectl", "delete", "namespace", made.space.name, "--wait=false")

    def kill(self, pod: Object) -> None:
        """SIGKILL the first process of a pod's first container."""
        first = pod["spec"]["containers"][0]["name"]
        (status,) = [one for one in pod["status"]["containerStatuses"] if one["name"] == first]
        identity = status["containerID"].rpartition("/")[2]
        self.space.exec(f"{self.APP}-{node_of(pod)}", "python", "-c", KILL, identity)


def pod(node: str, image: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{ProcessKiller.APP}-{node}", "labels": {"app": ProcessKiller.APP}},
        "spec": {
            "nodeName": node,
            "hostPID": True,
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": ProcessKiller.APP,
                    "image": image,
                    "command": ["sleep", "infinity"],
                    "securityContext": {"runAsUser": 0, "privileged": True},
                }
            ],
        },
    }
