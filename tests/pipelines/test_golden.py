"""The compiled IR, as a cluster is given it, is what the golden files say; what must be in it is there.

After a change that is meant to be: `python -m pipelines compile --platform tests/pipelines/platform.yaml --out
tests/pipelines/golden`, with the two images below in the environment, and read the difference.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in (HERE / "golden").glob("*.yaml"))
IMAGES = {
    "EVERMODEL_IMAGE": "registry.example/evermodel-python-control@sha256:aa",
    "EVERMODEL_RAY_IMAGE": "registry.example/evermodel-python-ray@sha256:bb",
}
HEAVY = {"exec-train", "exec-evaluate", "exec-predict-batch"}


def compiled_into(out: Path, **environment: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "compile",
        "--platform",
        str(HERE / "platform.yaml"),
        "--out",
        str(out),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **IMAGES, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_into(tmp_path_factory.mktemp("compiled"))


def normalised(place: Path) -> str:
    """Without what an update of the SDK changes by itself."""
    return re.sub(r"sdkVersion: kfp-\S+", "sdkVersion: kfp", place.read_text())


def documents(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(place.read_text())
    return spec["deploymentSpec"]["executors"], platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_there_is_a_golden_file_for_each(compiled: Path) -> None:
    assert sorted(path.stem for path in compiled.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_ir_is_the_golden_one(compiled: Path, name: str) -> None:
    assert normalised(compiled / f"{name}.yaml") == normalised(HERE / "golden" / f"{name}.yaml"), __doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_step_carries_what_the_platform_says(name: str) -> None:
    said = yaml.safe_load((HERE / "platform.yaml").read_text())
    executors, platform = documents(HERE / "golden" / f"{name}.yaml")
    assert executors.keys() == platform.keys()
    for step, given in platform.items():
        heavy = step in HEAVY
        assert {one["secretName"]: one["mountPath"] for one in given["secretAsVolume"]} == {
            one["name"]: one["path"] for one in said["secrets"]
        }
        assert [one["configMapName"] for one in given["configMapAsVolume"]] == [
            "evermodel-project",
            "evermodel-use-cases",
        ]
        assert {one["mountPath"] for one in given["emptyDirMounts"]} == {"/tmp", "/home/evermodel"}
        assert given["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
        assert given["activeDeadlineSeconds"] == ("7200" if heavy else "1800")
        assert [one["key"] for one in given["tolerations"]] == ["evermodel.io/batch", "node.kubernetes.io/not-ready"]
        assert given["nodeSelector"]["labels"] == said["node_selector"]
        assert "secretAsEnv" not in given, "a secret is a file, never in the environment"
        container = executors[step]["container"]
        assert container["image"] == IMAGES["EVERMODEL_RAY_IMAGE" if heavy else "EVERMODEL_IMAGE"]
        assert container["resources"]["resourceMemoryLimit"] == ("4Gi" if heavy else "2Gi")
        assert container["resources"]["resourceCpuRequest"] == ("500m" if heavy else "100m")
        assert {one["name"] for one in container["env"]} == set(said["environment"])


def test_where_training_has_a_ray_of_its_own_the_step_only_waits(tmp_path: Path) -> None:
    executors, _ = documents(compiled_into(tmp_path, EVERMODEL_RAY_JOB="rayjob.yaml") / "training.yaml")
    images = {step: one["container"]["image"].rpartition("-")[2] for step, one in executors.items()}
    assert images["exec-train"] == "control@sha256:aa" and images["exec-evaluate"] == "ray@sha256:bb"


def test_artifacts_that_the_ui_draws_are_outputs_of_evaluate() -> None:
    spec = next(yaml.safe_load_all((HERE / "golden" / "training.yaml").read_text()))
    outputs = spec["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    assert {name: one["artifactType"]["schemaTitle"] for name, one in outputs.items()} == {
        "metrics": "system.Metrics", "roc": "system.ClassificationMetrics",
        "page": "system.HTML", "summary": "system.Markdown",
    }  # fmt: skip


def test_a_wrong_platform_is_said_where(tmp_path: Path) -> None:
    place = tmp_path / "platform.yaml"
    place.write_text((HERE / "platform.yaml").read_text().replace("node_selector", "node_selectors"))
    command = [sys.executable, "-m", "pipelines", "compile", "--platform", str(place), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {place}: node_selectors: Extra inputs are not permitted\n"
