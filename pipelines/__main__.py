"""`python -m pipelines compile|run|submit`: the same pipelines to IR YAML, through kfp.local, or to a KFP endpoint."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from kfp import compiler, local
from kfp.dsl.base_component import BaseComponent

from evermodel.arguments import moment
from evermodel.errors import EvermodelError, UseCaseError, nearest
from evermodel.journey import Project
from evermodel.ledger import Failure
from evermodel.profile import load_profile
from evermodel.retraining.lease import this_process
from pipelines.batch_prediction import batch_prediction
from pipelines.materialize import materialize
from pipelines.monitoring import monitoring
from pipelines.training import training

PIPELINES: dict[str, BaseComponent] = {
    "training": training,
    "monitoring": monitoring,
    "materialize": materialize,
    "batch_prediction": batch_prediction,
}
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Parameters = Annotated[list[str], typer.Argument(help="name=value …: the pipeline's parameters")]


@app.command("compile")
def compile_all(out: Annotated[Path, typer.Option(help="folder for the IR YAML")] = Path("pipelines/compiled")) -> None:
    """Write every pipeline's IR YAML."""
    out.mkdir(parents=True, exist_ok=True)
    for name, pipeline in PIPELINES.items():
        compiler.Compiler().compile(pipeline, str(out / f"{name}.yaml"))
        print(out / f"{name}.yaml")


@app.command()
def run(name: str, parameters: Parameters) -> None:
    """Run a pipeline here, each step a subprocess; steps whose inputs haven't changed are taken from the cache."""
    pipeline, values = _read(name, parameters)
    if "owner" in (pipeline.component_spec.inputs or {}) and not values.get("owner"):
        values["owner"] = this_process("pipeline")  # it outlives the steps: a lease of a dead one is given back
    before = len(_errors(values["use_case"]))
    profile = load_profile()
    root = Path(profile.state_uri) / "pipelines"
    os.chdir(profile.root)
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True, enable_caching=True)
    try:
        pipeline(**values)
    except RuntimeError as error:  # kfp says which task, the step has said why
        said = _errors(values["use_case"])[before:]
        cause = f" in {said[-1].where}: {said[-1].message}" if said else f": {error}"
        raise EvermodelError(f"pipeline {name} failed{cause}") from None


def _errors(use_case: str) -> list[Failure]:
    project = Project.open()
    _, case = project.find(use_case)
    return project.ledger().errors(case.name)


@app.command()
def submit(name: str, parameters: Parameters, endpoint: Annotated[str, typer.Option(envvar="KFP_ENDPOINT")]) -> None:
    """Start a run on a Kubeflow Pipelines endpoint; prints its id."""
    from kfp.client import Client

    pipeline, values = _read(name, parameters)
    result = Client(host=endpoint).create_run_from_pipeline_func(pipeline, arguments=values)
    print(result.run_id)


def _read(name: str, parameters: list[str]) -> tuple[BaseComponent, dict[str, str]]:
    if name not in PIPELINES:
        raise typer.BadParameter(f"no pipeline {name!r}; {nearest(name, PIPELINES)}")
    known = PIPELINES[name].component_spec.inputs or {}
    values = {}
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        if not equals or key not in known:
            raise typer.BadParameter(f"{parameter!r}: write name=value; {nearest(key, known)}")
        values[key] = value
    if missing := [key for key, spec in known.items() if not spec.optional and not values.get(key)]:
        raise typer.BadParameter(f"{name} needs {' and '.join(f'{key}=…' for key in missing)}")
    if not values.get("now"):
        values["now"] = moment("").isoformat()  # read once, for all its steps
    return PIPELINES[name], values


def main() -> None:
    warnings.filterwarnings("ignore", module="kfp")
    logging.getLogger("kfp").setLevel(logging.WARNING)
    # The line that says a step came from the cache is on the root logger, at a level that is silent otherwise.
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s - %(message)s")
    try:
        app()
    except EvermodelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UseCaseError) else 1)


if __name__ == "__main__":
    main()
