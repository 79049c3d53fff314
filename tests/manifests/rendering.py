"""What the chart renders, and the pods in it: those of Kubernetes' own kinds, of Ray's, and of the templates in ConfigMaps."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT

CHART = ROOT / "helm" / "evermodel"
CASES = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
MINIMAL = CHART / "ci" / "minimal-values.yaml"
RELEASE, NAMESPACE = "fresh", "models"
LASTING = ("Deployment", "StatefulSet", "RayService", "RayJob")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Object = dict[str, Any]


def helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """helm, as it answered."""
    return run("helm", *words)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)


def program(*names: str) -> str | None:
    """The first of some programs that is on PATH."""
    return next((name for name in names if shutil.which(name)), None)


def refusal(*words: str) -> str:
    """Why the chart doesn't render with these settings on top of the minimal values; empty where it does."""
    said = helm("template", RELEASE, CHART, "-n", NAMESPACE, "-f", MINIMAL, *words)
    return said.stderr if said.returncode else ""


@cache
def rendered(values: Path, *words: str) -> tuple[Object, ...]:
    """Every object, those of hooks too."""
    said = helm("template", RELEASE, CHART, "-n", NAMESPACE, "-f", values, *words)
    assert said.returncode == 0, said.stderr
    return tuple(found for found in yaml.load_all(said.stdout, Loader=LOADER) if found)


def of_kind(kind: str, objects: tuple[Object, ...]) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def templates(objects: tuple[Object, ...]) -> list[Object]:
    """The Job and the RayJob that code completes, completed as it does."""
    project = next(one for one in of_kind("ConfigMap", objects) if "evermodel.yaml" in one["data"])
    found = [yaml.safe_load(text) for name, text in project["data"].items() if name in ("job.yaml", "rayjob.yaml")]
    for one in found:
        one["metadata"]["name"] = "a-run"
        if one["kind"] == "RayJob":
            one["spec"]["entrypoint"] = "python -m evermodel.execution.entrypoint"
    return found


@dataclass(frozen=True)
class Pod:
    """A pod as it would be made: whose, its labels and its spec."""

    owner: str
    kind: str
    labels: dict[str, str]
    spec: Object

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    def containers(self) -> Iterator[tuple[str, Object]]:
        for part in ("initContainers", "containers"):
            for one in self.spec.get(part) or ():
                yield f"{self.owner}/{one['name']}", one


def pods(objects: tuple[Object, ...]) -> list[Pod]:
    """Every pod of a rendering, and of the runs that it is the template of."""
    return [pod for one in (*objects, *templates(objects)) for pod in _pods(one)]


def _pods(one: Object) -> Iterator[Pod]:
    kind, spec = one["kind"], one.get("spec") or {}
    owner = f"{kind} {one['metadata']['name']}"
    if kind == "Pod":
        yield Pod(owner, kind, one["metadata"]["labels"], spec)
    elif kind in ("Deployment", "StatefulSet", "Job"):
        yield _of(owner, kind, spec["template"])
    elif kind == "CronJob":
        yield _of(owner, kind, spec["jobTemplate"]["spec"]["template"])
    elif kind in ("RayService", "RayJob"):
        cluster = spec["rayClusterConfig" if kind == "RayService" else "rayClusterSpec"]
        head = _of(f"{owner} head", kind, cluster["headGroupSpec"]["template"])
        if (scaler := cluster.get("autoscalerOptions")) is not None:  # a container that the operator adds
            added = {"name": "autoscaler", "image": head.spec["containers"][0]["image"], **scaler}
            head.spec["initContainers"] = [*head.spec.get("initContainers", ()), added]
        yield head
        for group in cluster["workerGroupSpecs"]:
            yield _of(f"{owner} {group['groupName']}", kind, group["template"])


def _of(owner: str, kind: str, template: Object) -> Pod:
    return Pod(owner, kind, template["metadata"]["labels"], dict(template["spec"]))


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every mapping below, with where it stands."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from walk(inner, f"{path}[{i}]")
