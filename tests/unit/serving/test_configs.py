"""The shipped Serve configs, read as `serve deploy` and KubeRay read them: by Serve's own call of the builder."""

import importlib
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

CONFIGS = sorted((ROOT / "serving" / "config").glob("*.yaml"))


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Ray's own, at its import
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_serve_builds_the_graph_from_a_shipped_config(path: Path) -> None:
    from ray import serve
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as build_as_serve_does

    (application,) = yaml.safe_load(path.read_text())["applications"]
    module, _, name = application["import_path"].partition(":")
    args = {**application["args"], "use_cases": {"restaurants": str(ROOT / "use_cases" / "restaurants.yaml")}}
    graph = build_as_serve_does(getattr(importlib.import_module(module), name), args)
    assert isinstance(graph, serve.Application)
