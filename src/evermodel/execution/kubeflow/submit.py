"""Pipelines on a Kubeflow Pipelines endpoint: upload as a version, start once, wait, and on a schedule.

Where the endpoint is, whose namespace, and which token and CA file: the profile's `kfp_*` settings.
"""

import tempfile
from pathlib import Path

from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from evermodel import storage
from evermodel.errors import InputError
from evermodel.execution.kubeflow.client import KfpClient, RetryPolicy
from evermodel.execution.kubeflow.platform import current
from evermodel.profile import Profile
from evermodel.records import canonical_json, sha256


def connect(profile: Profile, endpoint: str | None = None, *, policy: RetryPolicy | None = None) -> KfpClient:
    """The client of the profile's endpoint, or of another one."""
    host = endpoint or profile.kfp_endpoint
    if not host:
        raise InputError("no Kubeflow Pipelines to submit to: set kfp_endpoint in evermodel.yaml, or --endpoint")
    return KfpClient(
        host,
        namespace=profile.kfp_namespace,
        token_file=profile.root / profile.kfp_token_file if profile.kfp_token_file else None,
        ca_file=profile.root / profile.kfp_ca_file if profile.kfp_ca_file else None,
        policy=policy or RetryPolicy(),
    )


def run_name(name: str, values: dict[str, str]) -> str:
    """What a run is found again by: its retrain key, else the digest of its parameters."""
    asked = {key: value for key, value in values.items() if key != "owner"}
    return f"{name}-{values.get('retrain_key') or sha256(canonical_json(asked).encode())[:16]}"


def submit(client: KfpClient, name: str, pipeline: BaseComponent, values: dict[str, str]) -> str:
    """Start the run of these parameters, or find it; its id."""
    version = _uploaded(client, name, pipeline)
    return str(client.start(run_name(name, values), version, values, account=_account()).run_id)


def schedule(client: KfpClient, name: str, pipeline: BaseComponent, cron: str, values: dict[str, str]) -> str:
    """Run it again and again; the recurring run's id. One for each pipeline and use case."""
    version = _uploaded(client, name, pipeline)
    case = values["use_case"].partition("?")[0].rpartition("/")[2].removesuffix(".yaml")
    return str(client.schedule(f"{name}-{case}", version, cron, values, account=_account()).recurring_run_id)


def _uploaded(client: KfpClient, name: str, pipeline: BaseComponent) -> object:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(package))
        digest = sha256(storage.read_bytes(package))
        return client.version(name.replace("_", "-"), package, digest)


def _account() -> str | None:
    platform = current()
    return platform.service_account if platform else None
