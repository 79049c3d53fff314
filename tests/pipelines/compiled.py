"""Compile the pipelines as a person does, and read the IR that comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT

Tree = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step with the source of each input: a parameter of the pipeline, or `<step>.<output>`."""

    inputs: dict[str, str]
    after: frozenset[str] = frozenset()  # steps that it waits for without taking an output of theirs
    conditions: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True)
class CompiledPipeline:
    spec: Tree
    platform: Tree = field(default_factory=dict)

    @property
    def parameters(self) -> Tree:
        return dict(self.spec["root"]["inputDefinitions"]["parameters"])

    @property
    def containers(self) -> dict[str, Tree]:
        """Container by step."""
        executors = self.spec["deploymentSpec"]["executors"]
        return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}

    @property
    def kubernetes(self) -> dict[str, Tree]:
        """What the platform adds, by step."""
        executors = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        return {name.removeprefix("exec-"): executor for name, executor in executors.items()}

    def steps(self) -> dict[str, Step]:
        """All steps, those inside of conditions and nested pipelines too."""
        return dict(self._walk(self.spec["root"]["dag"], {name: name for name in self.parameters}, ()))

    def _walk(self, dag: Tree, scope: dict[str, str], conditions: tuple[str, ...]) -> Iterator[tuple[str, Step]]:
        for name, task in dag["tasks"].items():
            parameters = task.get("inputs", {}).get("parameters", {})
            inputs = {key: _source(value, scope) for key, value in parameters.items()}
            component = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                condition = task.get("triggerPolicy", {}).get("condition")
                inner = (*conditions, _readable(condition, inputs)) if condition else conditions
                yield from self._walk(component["dag"], inputs, inner)
            else:
                sources = {source.partition(".")[0] for source in inputs.values()}
                after = frozenset(task.get("dependentTasks", ())) - sources
                yield name, Step(inputs, after, conditions, task.get("cachingOptions", {}).get("enableCache", False))


def _source(value: Tree, scope: dict[str, str]) -> str:
    if output := value.get("taskOutputParameter"):
        return f"{output['producerTask']}.{output['outputParameterKey']}"
    return scope.get(value["componentInputParameter"], "the default")


def _readable(condition: str, inputs: dict[str, str]) -> str:
    return re.sub(r"inputs\.parameter_values\['([^']+)'\]", lambda match: inputs[match[1]], condition)


def run_program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines …`"""
    command = [sys.executable, "-m", "pipelines", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def compile_pipelines(out: Path, *options: str, **environment: str) -> dict[str, CompiledPipeline]:
    """Pipeline by name, as `python -m pipelines compile` writes them, in the order of its output."""
    done = run_program("compile", "--out", str(out), *options, **environment)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.split()]
    assert all(path.parent == out for path in paths)
    return {path.stem: CompiledPipeline(*yaml.safe_load_all(path.read_text())) for path in paths}
