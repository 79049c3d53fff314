"""The RayService that champions are projected onto, as the Kubernetes API has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from evermodel.control.rollout.transitions import NOTES, RolloutState
from evermodel.errors import EvermodelError
from evermodel.execution.kubernetes_api import Kind, KubernetesApi

RAY_SERVICES = Kind("apis/ray.io/v1", "rayservices")


@dataclass(frozen=True)
class Found:
    """The object at one version: its Serve config, and the notes beside it."""

    version: str
    config: str
    notes: RolloutState


class RayService:
    """One RayService. `api` needs the verbs get and patch on it, and no more."""

    def __init__(self, api: KubernetesApi, name: str) -> None:
        self._api, self.name = api, name

    def read(self) -> Found:
        """ConnectionError where the API server is away; EvermodelError where there is no such RayService."""
        found = self._api.get(RAY_SERVICES, self.name)
        if found is None:
            raise EvermodelError(f"no RayService {self.name} in namespace {self._api.namespace}")
        metadata: dict[str, Any] = found["metadata"]
        text = (metadata.get("annotations") or {}).get(NOTES) or "{}"
        try:
            notes = RolloutState.model_validate_json(text)
        except ValidationError:  # somebody edited it: what was good is learned anew
            notes = RolloutState()
        return Found(str(metadata["resourceVersion"]), str(found["spec"].get("serveConfigV2") or ""), notes)

    def write(self, before: Found, *, config: str, notes: RolloutState) -> None:
        """Config and notes in one write; ConflictError where the object isn't at that version any more."""
        text = notes.model_dump_json(exclude_none=True)
        patch: dict[str, Any] = {"metadata": {"resourceVersion": before.version, "annotations": {NOTES: text}}}
        if config != before.config:
            patch["spec"] = {"serveConfigV2": config}
        self._api.merge(RAY_SERVICES, self.name, patch)
