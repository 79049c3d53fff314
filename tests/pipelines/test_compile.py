"""The compiled pipelines have the steps, edges, conditions, parameters and caching that they need."""

import re
from dataclasses import replace

import pytest
import typer

from evermodel.cli.pipelines import build_app
from pipelines.__main__ import NAMES, trace
from tests.pipelines.compiled import CompiledPipeline, Step, compile_pipelines, run_program

pytestmark = pytest.mark.process

Pipelines = dict[str, CompiledPipeline]

USE_CASE = {"use_case": "use_case", "use_case_digest": "use_case_digest", "now": "now"}
PLAN = {"plan": "plan-run.plan"}
ROWS, RELEASE = {"training_set": "build-training-set.Output"}, {"release": "train.Output"}
REPORT = {"report": "evaluate.Output"}
RUN_TEXTS = ("windows", "mode", "trigger", "retrain_key", "reason")  # of a decision, for a training run
GRANTED = ("plan-run.Output == 'yes'",)
TRAINING = {
    "plan-run": Step({**USE_CASE, **{name: name for name in (*RUN_TEXTS, "parent", "owner")}}),
    "build-training-set": Step(PLAN, conditions=GRANTED, cached=True),
    "train": Step(PLAN | ROWS, conditions=GRANTED, cached=True),
    "evaluate": Step(PLAN | ROWS | RELEASE, conditions=GRANTED, cached=True),
    "register": Step(PLAN | RELEASE | REPORT, conditions=GRANTED),
    "promote": Step(PLAN | RELEASE | REPORT | {"registered": "register.Output"}, conditions=GRANTED),
}
RETRAIN = ("decide.Output == 'retrain'",)
#: The steps of each pipeline. A step that reads or writes the ledger is never taken from the cache.
STEPS = {
    "training": TRAINING,
    "monitoring": {
        "monitor": Step({**USE_CASE, "window": "window"}),
        "decide": Step({**USE_CASE, "report": "monitor.Output"}),
        # The run that an alert triggers trains on the alert's windows.
        **{name: replace(step, conditions=RETRAIN + step.conditions) for name, step in TRAINING.items()},
        "plan-run": Step(
            {**USE_CASE, **{name: f"decide.{name}" for name in RUN_TEXTS}, "parent": "the default", "owner": "owner"},
            conditions=RETRAIN,
        ),
    },
    "materialize": {
        "ingest": Step({**USE_CASE, "data_dir": "data_dir"}),
        "materialize": Step(USE_CASE, after=frozenset({"ingest"})),
    },
    "batch_prediction": {"predict-batch": Step({**USE_CASE, "window": "window"})},
}
#: Default by parameter; None for a required one.
PARAMETERS: dict[str, dict[str, str | None]] = {
    "training": {
        "use_case": None, "use_case_digest": "", "windows": "", "mode": "", "parent": "champion", "trigger": "",
        "retrain_key": "", "reason": "", "now": "", "owner": "pipeline",
    },
    "monitoring": {"use_case": None, "use_case_digest": "", "window": "", "now": "", "owner": "pipeline"},
    "materialize": {"use_case": None, "data_dir": None, "use_case_digest": "", "now": ""},
    "batch_prediction": {"use_case": None, "window": None, "use_case_digest": "", "now": ""},
}  # fmt: skip
OUTPUTS = {
    "metrics": "system.Metrics",
    "roc": "system.ClassificationMetrics",
    "page": "system.HTML",
    "summary": "system.Markdown",
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return compile_pipelines(tmp_path_factory.mktemp("compiled"))


def test_every_pipeline_is_compiled(compiled: Pipelines) -> None:
    assert tuple(compiled) == NAMES == tuple(STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_has_its_steps_edges_conditions_and_caching(compiled: Pipelines, name: str) -> None:
    assert compiled[name].steps() == STEPS[name]
    assert compiled[name].containers.keys() == STEPS[name].keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_person_can_fill_in_the_form(compiled: Pipelines, name: str) -> None:
    """Parameters are few, documented texts, and only the necessary ones are required."""
    info, parameters = compiled[name].spec["pipelineInfo"], compiled[name].parameters
    assert info["name"] == name.replace("_", "-") and info["description"]
    for key, value in parameters.items():
        assert value["description"].strip(), key
        assert value["parameterType"] == "STRING", key
        assert bool(value.get("isOptional")) == ("defaultValue" in value), key
    assert {key: value.get("defaultValue") for key, value in parameters.items()} == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_no_step_installs_anything(compiled: Pipelines, name: str) -> None:
    for container in compiled[name].containers.values():
        text = " ".join([*container["command"], *container.get("args", [])])
        assert not re.search(r"pip3? install|packages_to_install", text)
        assert container["image"]


def test_the_artifacts_that_the_ui_draws_are_outputs_of_evaluate(compiled: Pipelines) -> None:
    outputs = compiled["training"].spec["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    assert {name: output["artifactType"]["schemaTitle"] for name, output in outputs.items()} == OUTPUTS


def test_without_a_platform_nothing_is_added(compiled: Pipelines) -> None:
    assert not any(pipeline.platform for pipeline in compiled.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trainin", "use_case=x"), "no pipeline 'trainin'; did you mean 'training'?"),
        (("training", "use_cas=x"), "'use_cas=x': write name=value; did you mean 'use_case'?"),
        (("training", "use_case"), "'use_case': write name=value"),
        (("training", "now=2026-01-01"), "training needs use_case=…"),
        (("batch_prediction", "use_case=electricity"), "batch_prediction needs window=…"),
    ],
)
def test_a_wrong_parameter_is_a_usage_error_with_the_nearest_name(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        build_app(NAMES, trace)(["run", *arguments], standalone_mode=False)
    assert message in str(raised.value)


def test_an_unknown_use_case_is_an_error_before_anything_runs() -> None:
    done = run_program("run", "training", "use_case=electrisity")
    assert done.stderr == "error: no use case 'electrisity' here; did you mean 'electricity'?\n"
    assert done.returncode == 2
