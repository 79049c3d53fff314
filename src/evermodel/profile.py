"""Which store, registry, broker, Ray and KFP a project uses: `evermodel.yaml` at the project's root, plus environment.

A stage never asks which profile it runs in: it is given URIs. Any value can be overridden by EVERMODEL_<NAME>.
"""

import os
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from evermodel import storage
from evermodel.errors import UseCaseError, nearest

MARKER = "evermodel.yaml"


class Profile(BaseSettings):
    """One project's places. Relative paths are below the project's root."""

    model_config = SettingsConfigDict(env_prefix="EVERMODEL_", frozen=True, extra="forbid")

    root: Path
    profile: Literal["local", "cluster"] = "local"
    state: str = ".evermodel"  # events, training sets, bundles, reports, request logs
    ledger: str = "sqlite:///{state}/ledger.db"
    mlflow: str = "sqlite:///{state}/mlflow.db"
    feature_repo: str = "feature_repo"
    ray_address: str | None = None  # None: start a local one where one is needed
    num_workers: int = 0  # 0: the plain loop in the step's own process; more: Ray Train workers, the same loop
    serve_url: str = "http://127.0.0.1:8000"
    launcher: Literal["local", "kfp", "job"] = "local"
    lease_seconds: float = 3600.0

    @property
    def state_uri(self) -> str:
        return self.state if "://" in self.state else str(self.root / self.state)

    @property
    def ledger_url(self) -> str:
        return self.ledger.format(state=self.state_uri)

    @property
    def mlflow_uri(self) -> str:
        return self.mlflow.format(state=self.state_uri)

    @property
    def online_features(self) -> str:
        """The file of the online store, as `feature_repo/feature_store.yaml` names it."""
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
    raise UseCaseError(f"no {MARKER} in {here} or above: run in a project directory, or make one by `evermodel init`")


def load_profile(start: Path | None = None) -> Profile:
    """Read the project's `evermodel.yaml`; UseCaseError with the nearest valid key where one is unknown."""
    root = find_project(start)
    try:
        values = yaml.safe_load(storage.read_text(root / MARKER)) or {}
    except yaml.YAMLError as error:
        raise UseCaseError(f"{root / MARKER}: {error}") from None
    if not isinstance(values, dict):
        raise UseCaseError(f"{root / MARKER}: a profile is a mapping, such as `num_workers: 2`")
    known = Profile.model_fields.keys() - {"root"}  # which is where the file lies
    for key in values:
        if key not in known:
            raise UseCaseError(f"{root / MARKER}: unknown key {key!r}; {nearest(str(key), known)}")
    environment = {key for key in Profile.model_fields if _environment_has(key)}
    try:
        return Profile(root=root, **{key: value for key, value in values.items() if key not in environment})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UseCaseError(f"{root / MARKER}: {where} = {first['input']!r}: {first['msg']}") from None


def _environment_has(key: str) -> bool:
    return f"EVERMODEL_{key.upper()}" in os.environ
