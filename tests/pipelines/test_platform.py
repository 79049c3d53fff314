"""Compiled for a platform, every step carries what the platform file states."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.__main__ import NAMES
from tests.pipelines.compiled import CompiledPipeline, compile_pipelines, run_program

pytestmark = pytest.mark.process

PLATFORM = Path(__file__).with_name("platform.yaml")
IMAGE = "registry.example/evermodel-python-control@sha256:aa"
RAY_IMAGE = "registry.example/evermodel-python-ray@sha256:bb"
IMAGES = {"EVERMODEL_IMAGE": IMAGE, "EVERMODEL_RAY_IMAGE": RAY_IMAGE}
HEAVY = {"train", "evaluate", "predict-batch"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CompiledPipeline]:
    return compile_pipelines(tmp_path_factory.mktemp("compiled"), "--platform", str(PLATFORM), **IMAGES)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_has_the_volumes_and_the_pod_settings_of_the_platform(
    compiled: dict[str, CompiledPipeline], name: str
) -> None:
    platform = yaml.safe_load(PLATFORM.read_text())
    assert compiled[name].kubernetes.keys() == compiled[name].containers.keys()
    for step, pod in compiled[name].kubernetes.items():
        secrets = [{"name": volume["secretName"], "path": volume["mountPath"]} for volume in pod["secretAsVolume"]]
        assert secrets == platform["secrets"]
        assert "secretAsEnv" not in pod, "a secret is a file, never in the environment"
        maps = [{"name": volume["configMapName"], "path": volume["mountPath"]} for volume in pod["configMapAsVolume"]]
        assert maps == platform["config_maps"]
        assert {mount["volumeName"]: mount["mountPath"] for mount in pod["emptyDirMounts"]} == platform["empty_dirs"]
        assert pod["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
        timeout = platform["heavy_timeout_seconds" if step in HEAVY else "timeout_seconds"]
        assert pod["activeDeadlineSeconds"] == str(timeout)
        assert [rule["key"] for rule in pod["tolerations"]] == [rule["key"] for rule in platform["tolerations"]]
        assert pod["nodeSelector"]["labels"] == platform["node_selector"]
        assert pod["podMetadata"]["labels"] == platform["labels"]
        assert {variable["name"] for variable in pod["fieldPathAsEnv"]} == {"POD_NAME", "NODE_NAME"}


@pytest.mark.parametrize("name", NAMES)
def test_every_step_has_the_image_and_the_resources_of_its_kind(
    compiled: dict[str, CompiledPipeline], name: str
) -> None:
    platform = yaml.safe_load(PLATFORM.read_text())
    for step, container in compiled[name].containers.items():
        assert container["image"] == (RAY_IMAGE if step in HEAVY else IMAGE)
        amounts = platform["heavy" if step in HEAVY else "resources"]
        assert container["resources"]["resourceCpuRequest"] == amounts["requests"]["cpu"]
        assert container["resources"]["resourceMemoryRequest"] == amounts["requests"]["memory"]
        assert container["resources"]["resourceCpuLimit"] == amounts["limits"]["cpu"]
        assert container["resources"]["resourceMemoryLimit"] == amounts["limits"]["memory"]
        assert {variable["name"]: variable["value"] for variable in container["env"]} == platform["environment"]


def test_the_training_step_needs_no_torch_if_training_is_a_ray_job(tmp_path: Path) -> None:
    options = ("--platform", str(PLATFORM))
    containers = compile_pipelines(tmp_path, *options, **IMAGES, EVERMODEL_RAY_JOB="rayjob.yaml")["training"].containers
    assert (containers["train"]["image"], containers["evaluate"]["image"]) == (IMAGE, RAY_IMAGE)


def test_an_unknown_key_of_a_platform_file_is_an_error_with_its_place(tmp_path: Path) -> None:
    place = tmp_path / "platform.yaml"
    place.write_text(PLATFORM.read_text().replace("node_selector", "node_selectors"))
    done = run_program("compile", "--platform", str(place), "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: {place}: node_selectors: Extra inputs are not permitted\n"
