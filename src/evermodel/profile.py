"""The stores, registry, broker, Ray and KFP of a project: `evermodel.yaml` at the project's root, and the environment.

The environment variable EVERMODEL_<NAME> overrides a key. A stage gets URIs and does not know the profile. A key that ends
in `_file` names a file that holds a password; the file is read only when a connection is opened. A password inside a URI
is not shown.
"""

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import yaml
from pydantic import ValidationError, field_serializer
from pydantic_settings import BaseSettings, SettingsConfigDict

from evermodel import storage
from evermodel.errors import InputError, nearest

MARKER = "evermodel.yaml"
PASSWORD = re.compile(r"(://[^/:@]*:)[^@]*@")  # in a URI
REMOVED = {"profile": "set the keys that it stood for", "ray_address": "set the environment variable RAY_ADDRESS"}


class Profile(BaseSettings):
    """The settings of one project. Relative paths are below the project's root."""

    model_config = SettingsConfigDict(env_prefix="EVERMODEL_", frozen=True, extra="forbid")

    root: Path
    state: str = ".evermodel"  # events, training sets, bundles, reports, request logs
    scratch: str | None = None  # local and temporary: logs of subprocesses, kfp.local's folder; None: in `state`
    ledger: str = "sqlite:///{state}/ledger.db"
    ledger_password_file: str | None = None
    mlflow: str = "sqlite:///{state}/mlflow.db"
    feature_repo: str = "feature_repo"
    feature_store: str = "feature_store.yaml"  # the file in `feature_repo` that names Feast's stores
    online_store: str | None = None  # a path, or redis://host:6379/0; None: {state}/online.db
    online_store_password_file: str | None = None
    broker: str | None = None  # Kafka's bootstrap servers
    ray_job: str | None = None  # template of the RayJob that trains; None: the step trains in its own process
    job: str | None = None  # template of the Job that runs a pipeline
    num_workers: int = 0  # 0: train in the step's own process; more: Ray Train workers, with the same loop
    gpus_per_worker: float = 0.0  # in batch prediction; training uses CPUs
    serve_url: str = "http://127.0.0.1:8000"
    rayservice: str | None = None  # the RayService that serves the champions
    namespace: str | None = None
    launcher: Literal["local", "kfp", "job"] = "local"
    kfp_endpoint: str | None = None
    kfp_namespace: str | None = None
    kfp_token_file: str | None = None
    kfp_ca_file: str | None = None
    lease_seconds: float = 3600.0

    @field_serializer("ledger", "mlflow", "online_store")
    def _without_password(self, value: str | None) -> str | None:
        return value if value is None else PASSWORD.sub(r"\1***@", value)

    @property
    def state_uri(self) -> str:
        return self.state if "://" in self.state else str(self.root / self.state)

    @property
    def scratch_folder(self) -> Path:
        """A local folder for temporary files. InputError if `state` is remote and `scratch` is not set."""
        if self.scratch is not None:
            return self.root / self.scratch
        if (path := storage.local_path(self.state_uri)) is None:
            raise InputError(f"{self.root / MARKER}: state is {self.state}; name a local folder as `scratch`")
        return path

    @property
    def ledger_url(self) -> str:
        """The SQLAlchemy URL of the ledger. It names the file of its password, not the password."""
        url = self.ledger.format(state=self.state_uri)
        if self.ledger_password_file is None:
            return url
        return f"{url}{'&' if '?' in url else '?'}password_file={quote(self.ledger_password_file)}"

    @property
    def mlflow_uri(self) -> str:
        return self.mlflow.format(state=self.state_uri)

    @property
    def online_features(self) -> str:
        """The URI of the online store: by default the file that `feature_repo/feature_store.yaml` names."""
        if self.online_store is not None:
            uri = self.online_store.format(state=self.state_uri)
            return uri if "://" in uri else str(self.root / uri)
        if storage.local_path(self.state_uri) is None:
            raise InputError(
                f"{self.root / MARKER}: state is {self.state}; name an `online_store`, redis://… or a path"
            )
        return storage.join(self.state_uri, "online.db")

    @property
    def offline_features(self) -> str:
        """The folder to whose Parquet files each materialisation appends."""
        return storage.join(self.state_uri, "features")

    def place(self, use_case: str, *parts: str) -> str:
        """The URI of a part of a use case's state: `place("fraud", "events")`."""
        return storage.join(self.state_uri, use_case, *parts)


def find_project(start: Path | None = None) -> Path:
    """The nearest folder with an `evermodel.yaml`, from `start` (or EVERMODEL_PROJECT, or the current folder) upwards."""
    here = (start or Path(os.environ.get("EVERMODEL_PROJECT") or Path.cwd())).resolve()
    for folder in (here, *here.parents):
        if (folder / MARKER).is_file():
            return folder
    raise InputError(f"no {MARKER} in {here} or above: run in a project directory, or make one with `evermodel init`")


def load_profile(start: Path | None = None) -> Profile:
    """Read the project's `evermodel.yaml`. InputError with the nearest valid key if one is unknown."""
    root = find_project(start)
    try:
        values = yaml.safe_load(storage.read_text(root / MARKER)) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{root / MARKER}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{root / MARKER}: a profile is a mapping, such as `num_workers: 2`")
    known = Profile.model_fields.keys() - {"root"}  # the folder of the file
    for key in values:
        if key in REMOVED:
            raise InputError(f"{root / MARKER}: {key} has no effect any more; {REMOVED[key]}, and remove the key")
        if key not in known:
            raise InputError(f"{root / MARKER}: unknown key {key!r}; {nearest(str(key), known)}")
    environment = {key for key in Profile.model_fields if _environment_has(key)}
    try:
        return Profile(root=root, **{key: value for key, value in values.items() if key not in environment})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{root / MARKER}: {where} = {first['input']!r}: {first['msg']}") from None


def _environment_has(key: str) -> bool:
    return f"EVERMODEL_{key.upper()}" in os.environ
