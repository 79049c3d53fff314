"""The pipelines as IR YAML, and the program that compiles, runs and submits them."""

import re
import subprocess
import sys
from typing import Any

import pytest
import typer
import yaml

from pipelines.__main__ import app
from tests.support import ROOT

PIPELINES = {
    "training": {"plan-run", "build-training-set", "train", "evaluate", "register", "promote"},
    "monitoring": {"monitor", "decide", "training"},
    "materialize": {"ingest", "materialize"},
    "batch_prediction": {"predict-batch"},
}


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Name → IR, as a KFP endpoint would be given it."""
    out = tmp_path_factory.mktemp("compiled")
    done = program("compile", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / f"{name}.yaml") for name in PIPELINES]
    return {path.stem: next(yaml.safe_load_all(path.read_text())) for path in sorted(out.glob("*.yaml"))}


def components(ir: dict[str, Any]) -> set[str]:
    """The names of all tasks, those inside conditions and nested pipelines too."""
    dags = [ir["root"]["dag"], *(one["dag"] for one in ir["components"].values() if "dag" in one)]
    return {task["componentRef"]["name"].removeprefix("comp-") for dag in dags for task in dag["tasks"].values()}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_names_its_steps(compiled: dict[str, dict[str, Any]], name: str) -> None:
    assert set(compiled) == set(PIPELINES)
    assert compiled[name]["pipelineInfo"]["name"] == name.replace("_", "-")
    assert compiled[name]["pipelineInfo"]["description"]
    assert PIPELINES[name] <= components(compiled[name])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_person_can_fill_in_the_form(compiled: dict[str, dict[str, Any]], name: str) -> None:
    """Few, named, documented texts; only what can't be known is required."""
    parameters = compiled[name]["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) <= 10
    for key, value in parameters.items():
        assert value["description"].strip(), key
        assert value["parameterType"] == "STRING", key
    required = {key for key, value in parameters.items() if not value.get("isOptional")}
    assert required == {"use_case"} | {"batch_prediction": {"window"}, "materialize": {"data_dir"}}.get(name, set())


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_installs_anything(compiled: dict[str, dict[str, Any]], name: str) -> None:
    for executor in compiled[name]["deploymentSpec"]["executors"].values():
        text = " ".join([*executor["container"]["command"], *executor["container"].get("args", [])])
        assert not re.search(r"pip3? install|packages_to_install", text)
        assert executor["container"]["image"]


def test_what_depends_on_the_ledger_is_never_taken_from_the_cache(compiled: dict[str, dict[str, Any]]) -> None:
    cached = {
        task["componentRef"]["name"].removeprefix("comp-")
        for ir in compiled.values()
        for dag in [ir["root"]["dag"], *(one["dag"] for one in ir["components"].values() if "dag" in one)]
        for task in dag["tasks"].values()
        if task.get("cachingOptions", {}).get("enableCache")
    }
    steps = {name for name in cached if not name.startswith(("condition", "training"))}
    assert steps == {"build-training-set", "train", "evaluate"}


def test_monitoring_hands_the_alerts_windows_to_training(compiled: dict[str, dict[str, Any]]) -> None:
    """The alert's window reaches the run that it triggers: nothing of the decision is left behind."""
    dags = [one["dag"] for one in compiled["monitoring"]["components"].values() if "dag" in one]
    (given,) = [dag["tasks"]["training"]["inputs"]["parameters"] for dag in dags if "training" in dag["tasks"]]
    for key in ("windows", "mode", "trigger", "retrain_key", "reason"):
        assert given[key] == {"componentInputParameter": f"pipelinechannel--decide-{key}"}
    assert given["now"] == {"componentInputParameter": "pipelinechannel--now"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trainin", "use_case=x"), "no pipeline 'trainin'; did you mean 'training'?"),
        (("training", "use_cas=x"), "'use_cas=x': write name=value; did you mean 'use_case'?"),
        (("training", "use_case"), "'use_case': write name=value"),
        (("training", "now=2026-01-01"), "training needs use_case=…"),
        (("batch_prediction", "use_case=electricity"), "batch_prediction needs window=…"),
    ],
)
def test_a_wrong_parameter_is_a_usage_error_with_the_nearest_name(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        app(["run", *arguments], standalone_mode=False)
    assert said in str(raised.value)


def test_a_use_case_that_is_not_there_is_said_before_anything_runs() -> None:
    done = program("run", "training", "use_case=electrisity")
    assert done.stderr == "error: no use case 'electrisity' here; did you mean 'electricity'?\n"
    assert done.returncode == 2
