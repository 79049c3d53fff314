"""Each component is a function of texts and whole numbers that imports, calls and records."""

import builtins
import dis
import inspect
from importlib import import_module
from typing import Any, get_type_hints

import pytest
from kfp import dsl

from tests.support import ROOT

NAMES = sorted(path.stem for path in (ROOT / "components").glob("[a-z]*.py"))
ARTIFACTS = (dsl.Metrics, dsl.ClassificationMetrics, dsl.HTML, dsl.Markdown)


def function(name: str) -> Any:
    """The function that runs in the pod."""
    return getattr(import_module(f"components.{name}"), name).python_func


def test_there_is_one_component_for_each_stage() -> None:
    assert set(NAMES) == {
        "ingest", "build_training_set", "train", "evaluate", "register", "promote", "materialize", "predict_batch",
        "monitor", "decide", "plan_run",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_values_travel_as_text_or_whole_numbers(name: str) -> None:
    """kfp turns ints in a dict or a list into floats, and rejects None."""
    hints = get_type_hints(function(name), include_extras=True)
    returned = hints.pop("return")
    values = {key: kind for key, kind in hints.items() if not hasattr(kind, "__metadata__")}
    assert values, "a component has inputs"
    assert set(values.values()) <= {str, int}
    outputs = get_type_hints(returned) if hasattr(returned, "_fields") else {"Output": returned}
    assert set(outputs.values()) <= {str, int}
    for kind in (kind for key, kind in hints.items() if key not in values):
        assert kind.__origin__ in ARTIFACTS


@pytest.mark.parametrize("name", NAMES)
def test_a_body_uses_no_name_of_its_module(name: str) -> None:
    """Only the body is sent to the pod, so a name of the module would be undefined there."""
    body = function(name)
    loaded = {step.argval for step in dis.get_instructions(body) if step.opname == "LOAD_GLOBAL"}
    assert loaded <= set(vars(builtins))
    assert body.__code__.co_freevars == ()


@pytest.mark.parametrize("name", NAMES)
def test_it_installs_nothing_and_names_an_image(name: str) -> None:
    built = getattr(import_module(f"components.{name}"), name)
    container = built.pipeline_spec.deployment_spec["executors"][f"exec-{name.replace('_', '-')}"]["container"]
    assert "pip install" not in " ".join(container["command"])
    assert "python" in container["image"], "kfp warns if the image name has no 'python'"
    assert (inspect.getmodule(built.python_func).__doc__ or "").strip()
