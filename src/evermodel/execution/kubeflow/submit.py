"""Submit pipelines to a Kubeflow Pipelines endpoint: upload a version, then start one run or a recurring one.

The profile's `kfp_*` settings name the endpoint, the namespace, the token file and the CA file.
"""

import tempfile
from pathlib import Path

from evermodel import storage
from evermodel.errors import InputError
from evermodel.execution.kubeflow.client import KfpClient
from evermodel.execution.kubeflow.compile import Pipeline, compile_pipeline
from evermodel.execution.kubeflow.platform import current_platform
from evermodel.profile import Profile
from evermodel.records import canonical_json, sha256


def connect(profile: Profile, endpoint: str | None = None) -> KfpClient:
    """A client of `endpoint`, or else of the profile's; InputError if there is neither."""
    host = endpoint or profile.kfp_endpoint
    if not host:
        raise InputError("no Kubeflow Pipelines endpoint: set kfp_endpoint in evermodel.yaml, or --endpoint")
    return KfpClient(
        host,
        namespace=profile.kfp_namespace,
        token_file=profile.root / profile.kfp_token_file if profile.kfp_token_file else None,
        ca_file=profile.root / profile.kfp_ca_file if profile.kfp_ca_file else None,
    )


def run_name(name: str, values: dict[str, str]) -> str:
    """The name that identifies a run: it ends with the retrain key, or else with the digest of the parameters."""
    given = {key: value for key, value in values.items() if key != "owner"}
    return f"{name}-{values.get('retrain_key') or sha256(canonical_json(given).encode())[:16]}"


def submit(client: KfpClient, name: str, pipeline: Pipeline, values: dict[str, str]) -> str:
    """Start the run of these parameters, or find it; returns its id."""
    version = _upload(client, name, pipeline)
    return str(client.start_run(run_name(name, values), version, values, service_account=_service_account()).run_id)


def schedule(client: KfpClient, name: str, pipeline: Pipeline, cron: str, values: dict[str, str]) -> str:
    """Start or replace the recurring run of this pipeline and use case; returns its id."""
    version = _upload(client, name, pipeline)
    case = storage.Uri.parse(values["use_case"]).stem
    return str(
        client.schedule_run(
            f"{name}-{case}", version, cron, values, service_account=_service_account()
        ).recurring_run_id
    )


def _upload(client: KfpClient, name: str, pipeline: Pipeline) -> object:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}.yaml"
        compile_pipeline(pipeline, package)
        digest = sha256(storage.read_bytes(package))
        return client.upload_version(name.replace("_", "-"), package, digest)


def _service_account() -> str | None:
    platform = current_platform()
    return platform.service_account if platform else None
