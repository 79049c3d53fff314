"""What a cluster adds to each step: resources, volumes, node selection, timeout, and identity.

A platform file (YAML) states it for all steps. `python -m pipelines compile|submit|schedule --platform FILE` (or
EVERMODEL_PLATFORM) compiles with it; without one nothing is added, and the same pipelines run through kfp.local. The
file only names Secrets and ConfigMaps: the compiled pipeline holds none of their content.
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
    """CPU and memory in Kubernetes' notation."""

    cpu: str
    memory: str


class Resources(_Strict):
    requests: Amount
    limits: Amount


class Mount(_Strict):
    """A Secret or a ConfigMap by name, and the folder that gets its keys as files."""

    name: str
    path: str


class Toleration(_Strict):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    seconds: int | None = None


class Identity(_Strict):
    """Numeric ids, because Kubernetes checks 'not root' without a look into the image."""

    user: int = 1000
    group: int = 1000


class Platform(_Strict):
    """What each step gets on one cluster; `heavy` is for the steps that train or score."""

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
def current_platform() -> Platform | None:
    """The platform of EVERMODEL_PLATFORM, read once; None if the variable isn't set."""
    place = os.environ.get(PLATFORM)
    return read_platform(Path(place)) if place else None


def read_platform(place: Path) -> Platform:
    """The platform of a file; InputError with the path and the key if a value is wrong."""
    try:
        return Platform.model_validate(yaml.safe_load(storage.read_text(place)))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{place}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def apply_platform(task: dsl.PipelineTask, *, heavy: bool = False) -> dsl.PipelineTask:
    """Add to the task what the platform states, if there is one; `heavy` is for a step that trains or scores."""
    platform = current_platform()
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
    for rule in platform.tolerations:
        kubernetes.add_toleration(task, rule.key, rule.operator, rule.value, rule.effect, rule.seconds)
    for key, value in platform.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for key, value in platform.labels.items():
        kubernetes.add_pod_label(task, key, value)
    identity = platform.identity
    kubernetes.set_security_context(task, run_as_user=identity.user, run_as_group=identity.group, run_as_non_root=True)
    kubernetes.set_timeout(task, platform.heavy_timeout_seconds if heavy else platform.timeout_seconds)
    return task
