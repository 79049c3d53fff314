"""A component is a function of texts and whole numbers that imports, calls and records."""

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
    """What runs in the pod."""
    return getattr(import_module(f"components.{name}"), name).python_func


def test_there_is_one_for_each_stage() -> None:
    assert set(NAMES) == {
        "ingest", "build_training_set", "train", "evaluate", "register", "promote", "materialize", "predict_batch",
        "monitor", "decide", "plan_run",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_values_travel_as_text_or_whole_numbers(name: str) -> None:
    """A dict or a list would turn ints into floats on its way, and None raises."""
    hints = get_type_hints(function(name), include_extras=True)
    answer = hints.pop("return")
    values = {key: kind for key, kind in hints.items() if not hasattr(kind, "__metadata__")}
    assert values, "a component says what it works on"
    assert set(values.values()) <= {str, int}
    outputs = get_type_hints(answer) if hasattr(answer, "_fields") else {"Output": answer}
    assert set(outputs.values()) <= {str, int}
    for kind in (kind for key, kind in hints.items() if key not in values):
        assert kind.__origin__ in ARTIFACTS


@pytest.mark.parametrize("name", NAMES)
def test_only_its_body_travels(name: str) -> None:
    """No name of its module is used inside: there it wouldn't be."""
    body = function(name)
    loaded = {step.argval for step in dis.get_instructions(body) if step.opname == "LOAD_GLOBAL"}
    assert loaded <= set(vars(builtins))
    assert body.__code__.co_freevars == ()


@pytest.mark.parametrize("name", NAMES)
def test_it_installs_nothing_and_names_an_image(name: str) -> None:
    built = getattr(import_module(f"components.{name}"), name)
    container = built.pipeline_spec.deployment_spec["executors"][f"exec-{name.replace('_', '-')}"]["container"]
    assert "pip install" not in " ".join(container["command"])
    assert "python" in container["image"], "kfp warns of an image without it"
    assert (inspect.getmodule(built.python_func).__doc__ or "").strip()
