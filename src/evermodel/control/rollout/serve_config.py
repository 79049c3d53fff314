"""Reads and sets the release of each use case in a Ray Serve config (`serveConfigV2`). Pure functions over its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from evermodel.errors import EvermodelError

MODELS_DEPLOYMENT = "Models"


def configured_releases(config: str) -> dict[str, str | None]:
    """The URI of the release of each use case that the config serves; None for a use case without one."""
    releases: dict[str, str | None] = {}
    for application in _applications(_parse(config)):
        settings = _user_config(application).get("use_cases") or {}
        for name in _served(application):
            uri = (settings.get(name) or {}).get("release")
            releases[str(name)] = uri if isinstance(uri, str) else None
    return releases


def with_releases(config: str, wanted: Mapping[str, str]) -> str:
    """The config with these releases; the same text if it has them already. Weights and arms stay as they are.

    A use case that the config does not serve is not added: serving rejects a config with an unknown name as a whole.
    """
    configured = configured_releases(config)
    if all(configured[name] == uri for name, uri in wanted.items() if name in configured):
        return config
    parsed = _parse(config)
    for application in _applications(parsed):
        settings = _add_user_config(application).setdefault("use_cases", {})
        for name in _served(application):
            if name in wanted:
                settings[name] = {**(settings.get(name) or {}), "release": wanted[name]}
    return yaml.safe_dump(parsed, sort_keys=False, allow_unicode=True, width=120)


def _parse(config: str) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(config)
    except yaml.YAMLError as error:
        raise EvermodelError(f"serveConfigV2 is not valid YAML: {error}") from None
    if not isinstance(parsed, dict):
        raise EvermodelError("serveConfigV2 has no applications")
    return parsed


def _applications(parsed: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [application for application in parsed.get("applications") or [] if isinstance(application, dict)]


def _served(application: Mapping[str, Any]) -> Mapping[str, Any]:
    return (application.get("args") or {}).get("use_cases") or {}


def _models_deployment(application: Mapping[str, Any]) -> dict[str, Any] | None:
    deployments = application.get("deployments") or []
    return next((deployment for deployment in deployments if deployment.get("name") == MODELS_DEPLOYMENT), None)


def _user_config(application: Mapping[str, Any]) -> dict[str, Any]:
    """The `user_config` of the models' deployment; empty if there is none."""
    return (_models_deployment(application) or {}).get("user_config") or {}


def _add_user_config(application: dict[str, Any]) -> dict[str, Any]:
    """The `user_config` of the models' deployment, added to the application if there is none."""
    deployment = _models_deployment(application)
    if deployment is None:
        deployment = {"name": MODELS_DEPLOYMENT}
        application["deployments"] = [*(application.get("deployments") or []), deployment]
    if deployment.get("user_config") is None:
        deployment["user_config"] = {}
    config: dict[str, Any] = deployment["user_config"]
    return config
