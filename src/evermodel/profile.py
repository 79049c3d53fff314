"""Which store, registry, broker, Ray and KFP a project uses: `evermodel.yaml` at the project's root, plus environment.

A stage never asks which profile it runs in: it is given URIs. Any value can be overridden by EVERMODEL_<NAME>.
No URI needs to hold a password: a key that ends in `_file` names the file that does, which is read where a connection is
opened and nowhere else. A password that is in a URI all the same isn't shown.
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
PASSWORD = re.compile(r"(://[^/:@]*:)[^@]*@")  # of a URI


class Profile(BaseSettings):
    """One project's places. Relative paths are below the project's root."""

    model_config = SettingsConfigDict(env_prefix="EVERMODEL_", frozen=True, extra="forbid")

    root: Path
    profile: Literal["local", "cluster"] = "local"
    state: str = ".evermodel"  # events, training sets, bundles, reports, request logs
    scratch: str | None = None  # local and thrown away: logs of subprocesses, kfp.local's folder; None: the state's
    ledger: str = "sqlite:///{state}/ledger.db"
    ledger_password_file: str | None = None
    mlflow: str = "sqlite:///{state}/mlflow.db"
    feature_repo: str = "feature_repo"
    feature_store: str = "feature_store.yaml"  # the file in it that names Feast's stores
    online_store: str | None = None  # a path, or redis://host:6379/0; None: {state}/online.db
    online_store_password_file: str | None = None
    broker: str | None = None  # Kafka's bootstrap servers
    ray_address: str | None = None  # None: start a local one where one is needed
    ray_job: str | None = None  # template of the RayJob that trains; None: train in the step's own process
    job: str | None = None  # template of the Job that runs a pipeline
    num_workers: int = 0  # 0: the plain loop in the step's own process; more: Ray Train workers, the same loop
    gpus_per_worker: float = 0.0  # of batch prediction; training is on CPUs
    serve_url: str = "http://127.0.0.1:8000"
    rayservice: str | None = None  # what champions are projected onto
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
        """A local folder for what nobody reads later. InputError where the state is elsewhere and none is named."""
        if self.scratch is not None:
            return self.root / self.scratch
        if (path := storage.local_path(self.state_uri)) is None:
            raise InputError(f"{self.root / MARKER}: state is {self.state}; name a local folder as `scratch`")
        return path

    @property
    def ledger_url(self) -> str:
        """The SQLAlchemy URL of the ledger. It names the file of its password, and never holds what is in it."""
        url = self.ledger.format(state=self.state_uri)
        if self.ledger_password_file is None:
            return url
        return f"{url}{'&' if '?' in url else '?'}password_file={quote(self.ledger_password_file)}"

    @property
    def mlflow_uri(self) -> str:
        return self.mlflow.format(state=self.state_uri)

    @property
    def online_features(self) -> str:
        """The URI of the online store: by default a file, as `feature_repo/feature_store.yaml` names it."""
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
        """The folder of the Parquet files that each materialisation appends to."""
        return storage.join(self.state_uri, "features")

    def place(self, use_case: str, *parts: str) -> str:
        """The URI below which a use case keeps one kind of thing: `place("fraud", "events")`."""
        return storage.join(self.state_uri, use_case, *parts)


def find_project(start: Path | None = None) -> Path:
    """The nearest folder that holds `evermodel.yaml`, from `start` (or EVERMODEL_PROJECT, or here) upwards."""
    here = (start or Path(os.environ.get("EVERMODEL_PROJECT") or Path.cwd())).resolve()
    for folder in (here, *here.parents):
        if (folder / MARKER).is_file():
            return folder
    raise InputError(f"no {MARKER} in {here} or above: run in a project directory, or make one by `evermodel init`")


def load_profile(start: Path | None = None) -> Profile:
    """Read the project's `evermodel.yaml`; InputError with the nearest valid key where one is unknown."""
    root = find_project(start)
    try:
        values = yaml.safe_load(storage.read_text(root / MARKER)) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{root / MARKER}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{root / MARKER}: a profile is a mapping, such as `num_workers: 2`")
    known = Profile.model_fields.keys() - {"root"}  # which is where the file lies
    for key in values:
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
