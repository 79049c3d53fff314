"""The RayService whose Serve config names the champions, as the Kubernetes API stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from evermodel.control.rollout.transitions import RolloutState
from evermodel.errors import EvermodelError
from evermodel.execution.kubernetes_api import Kind, KubernetesApi

RAY_SERVICES = Kind("apis/ray.io/v1", "rayservices")
STATE_ANNOTATION = "evermodel.io/projection"


@dataclass(frozen=True)
class RayServiceSnapshot:
    """The object at one resource version: its Serve config and the rollout's state."""

    version: str
    config: str
    state: RolloutState


class RayService:
    """One RayService. `api` needs the verbs get and patch on it, and no more."""

    def __init__(self, api: KubernetesApi, name: str) -> None:
        self._api, self.name = api, name

    def read(self) -> RayServiceSnapshot:
        """Raises ConnectionError if the API server is away, EvermodelError if there is no such RayService."""
        manifest = self._api.get(RAY_SERVICES, self.name)
        if manifest is None:
            raise EvermodelError(f"no RayService {self.name} in namespace {self._api.namespace}")
        metadata: dict[str, Any] = manifest["metadata"]
        text = (metadata.get("annotations") or {}).get(STATE_ANNOTATION) or "{}"
        try:
            state = RolloutState.model_validate_json(text)
        except ValidationError:  # somebody edited it: the state starts anew
            state = RolloutState()
        config = str(manifest["spec"].get("serveConfigV2") or "")
        return RayServiceSnapshot(str(metadata["resourceVersion"]), config, state)

    def write(self, snapshot: RayServiceSnapshot, *, config: str, state: RolloutState) -> None:
        """Writes config and state at once. Raises ConflictError if the object changed after `snapshot`."""
        text = state.model_dump_json(exclude_none=True)
        annotations = {STATE_ANNOTATION: text}
        patch: dict[str, Any] = {"metadata": {"resourceVersion": snapshot.version, "annotations": annotations}}
        if config != snapshot.config:
            patch["spec"] = {"serveConfigV2": config}
        self._api.merge(RAY_SERVICES, self.name, patch)
