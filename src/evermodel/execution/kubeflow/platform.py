"""What a cluster adds to each step: resources, volumes, where it may run, for how long, and as whom.

A platform file (YAML) says it, once for all steps; `python -m pipelines compile|submit|schedule --platform FILE` (or
EVERMODEL_PLATFORM) compiles with it. Without one, nothing is added, and the same pipelines run through kfp.local. A
Secret or a ConfigMap is named here and mounted there: nothing of it is in the compiled pipeline.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import yaml
from kfp import dsl, kubernetes
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evermodel import storage
from evermodel.errors import InputError

PLATFORM = "EVERMODEL_PLATFORM"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Amount(_Strict):
    """CPU and memory as Kubernetes writes them."""

    cpu: str
    memory: str


class Resources(_Strict):
    requests: Amount
    limits: Amount


class Mount(_Strict):
    """A Secret or a ConfigMap by name, and the folder in which its keys are files."""

    name: str
    path: str


class Toleration(_Strict):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    seconds: int | None = None


class Identity(_Strict):
    """Numeric: a pod that must not run as root has to know without looking into the image."""

    user: int = 1000
    group: int = 1000


class Platform(_Strict):
    """One cluster, as its steps see it. `heavy` are the resources of the steps that train or score."""

    resources: Resources
    heavy: Resources
    service_account: str | None = None
    timeout_seconds: int = 3600
    heavy_timeout_seconds: int = 6 * 3600
    identity: Identity = Identity()
    environment: Mapping[str, str] = Field(default_factory=dict)
    secrets: tuple[Mount, ...] = ()
    config_maps: tuple[Mount, ...] = ()
    empty_dirs: Mapping[str, str] = Field(default_factory=lambda: {"tmp": "/tmp", "home": "/home/evermodel"})
    tolerations: tuple[Toleration, ...] = ()
    node_selector: Mapping[str, str] = Field(default_factory=dict)
    labels: Mapping[str, str] = Field(default_factory=dict)


@lru_cache(maxsize=1)
def current() -> Platform | None:
    """The platform that is compiled for; None where pipelines run here."""
    place = os.environ.get(PLATFORM)
    return read(Path(place)) if place else None


def read(place: Path) -> Platform:
    """InputError with the place where a value is wrong."""
    try:
        return Platform.model_validate(yaml.safe_load(storage.read_text(place)))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{place}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def on_cluster(task: dsl.PipelineTask, *, heavy: bool = False) -> dsl.PipelineTask:
    """The task with what the platform adds; as it is where there is none. `heavy`: it trains or scores."""
    platform = current()
    if platform is None:
        return task
    resources = platform.heavy if heavy else platform.resources
    task.set_cpu_request(resources.requests.cpu).set_cpu_limit(resources.limits.cpu)
    task.set_memory_request(resources.requests.memory).set_memory_limit(resources.limits.memory)
    for name, value in platform.environment.items():
        task.set_env_variable(name, value)
    kubernetes.use_field_path_as_env(task, "POD_NAME", "metadata.name")
    kubernetes.use_field_path_as_env(task, "NODE_NAME", "spec.nodeName")
    for secret in platform.secrets:
        kubernetes.use_secret_as_volume(task, secret.name, mount_path=secret.path)
    for config_map in platform.config_maps:
        kubernetes.use_config_map_as_volume(task, config_map.name, mount_path=config_map.path)
    for name, path in platform.empty_dirs.items():
        kubernetes.empty_dir_mount(task, volume_name=name, mount_path=path)
    for one in platform.tolerations:
        kubernetes.add_toleration(task, one.key, one.operator, one.value, one.effect, one.seconds)
    for key, value in platform.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for key, value in platform.labels.items():
        kubernetes.add_pod_label(task, key, value)
    identity = platform.identity
    kubernetes.set_security_context(task, run_as_user=identity.user, run_as_group=identity.group, run_as_non_root=True)
    kubernetes.set_timeout(task, platform.heavy_timeout_seconds if heavy else platform.timeout_seconds)
    return task
