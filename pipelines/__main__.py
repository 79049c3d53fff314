"""`python -m pipelines compile|run|submit|schedule`: the same pipelines to IR YAML, through kfp.local, or on Kubeflow Pipelines."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from kfp import compiler, local
from kfp.dsl.base_component import BaseComponent

from evermodel import clock
from evermodel.errors import EvermodelError, InputError, nearest
from evermodel.execution.kubeflow.platform import PLATFORM
from evermodel.execution.kubernetes_job import take_over
from evermodel.ledger import Failure
from evermodel.profile import load_profile
from evermodel.workflow import Project

NAMES = ("training", "monitoring", "materialize", "batch_prediction")
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Parameters = Annotated[list[str], typer.Argument(help="name=value …: the pipeline's parameters")]
OnPlatform = Annotated[Path | None, typer.Option("--platform", help="what the cluster adds to each step, as YAML")]
Endpoint = Annotated[str | None, typer.Option(envvar="KFP_ENDPOINT", help="default: the profile's kfp_endpoint")]


def pipelines(platform: Path | None = None) -> dict[str, BaseComponent]:
    """Name → pipeline, traced now: what a platform adds is in them from then on."""
    if platform is not None:
        os.environ[PLATFORM] = str(platform.resolve())
    from pipelines.batch_prediction import batch_prediction
    from pipelines.materialize import materialize
    from pipelines.monitoring import monitoring
    from pipelines.training import training

    return dict(zip(NAMES, (training, monitoring, materialize, batch_prediction), strict=True))


@app.command("compile")
def compile_all(
    out: Annotated[Path, typer.Option(help="folder for the IR YAML")] = Path("pipelines/compiled"),
    platform: OnPlatform = None,
) -> None:
    """Write every pipeline's IR YAML."""
    out.mkdir(parents=True, exist_ok=True)
    for name, pipeline in pipelines(platform).items():
        compiler.Compiler().compile(pipeline, str(out / f"{name}.yaml"))
        print(out / f"{name}.yaml")


@app.command()
def run(name: str, parameters: Parameters) -> None:
    """Run a pipeline here, each step a subprocess; steps whose inputs haven't changed are taken from the cache."""
    os.environ.pop(PLATFORM, None)  # of a cluster; kfp.local is none
    pipeline, values = _read(name, parameters)
    project = Project.open()
    _, case = project.find(values["use_case"])
    if "owner" in (pipeline.component_spec.inputs or {}) and not values.get("owner"):
        values["owner"] = take_over(project.ledger(), case.name)  # it outlives the steps
    before = len(_errors(project, case.name))
    os.chdir(project.profile.root)
    root = project.profile.scratch_folder / "pipelines"
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True, enable_caching=True)
    try:
        pipeline(**values)
    except RuntimeError as error:  # kfp says which task, the step has said why
        said = _errors(project, case.name)[before:]
        cause = f" in {said[-1].where}: {said[-1].message}" if said else f": {error}"
        raise EvermodelError(f"pipeline {name} failed{cause}") from None


def _errors(project: Project, use_case: str) -> list[Failure]:
    return project.ledger().errors(use_case)


@app.command()
def submit(
    name: str,
    parameters: Parameters,
    endpoint: Endpoint = None,
    wait: Annotated[bool, typer.Option("--wait", help="come back when it has ended; 1 where it has failed")] = False,
    platform: OnPlatform = None,
) -> None:
    """Start a run on a Kubeflow Pipelines endpoint (or find the one of these parameters); prints its id."""
    from evermodel.execution.kubeflow import submit as kfp

    pipeline, values = _read(name, parameters, platform=platform)
    client = kfp.connect(load_profile(), endpoint)
    run_id = kfp.submit(client, name, pipeline, values)
    print(run_id, flush=True)
    if wait:
        client.wait(run_id, lambda line: print(line, file=sys.stderr, flush=True))


@app.command()
def schedule(
    name: str,
    parameters: Parameters,
    cron: Annotated[str, typer.Option(help="six fields, seconds first: '0 0 * * * *' is hourly")],
    endpoint: Endpoint = None,
    platform: OnPlatform = None,
) -> None:
    """Have a Kubeflow Pipelines endpoint run it again and again; missed times aren't made up for. Prints its id."""
    from evermodel.execution.kubeflow import submit as kfp

    pipeline, values = _read(name, parameters, platform=platform)
    values.pop("now")  # each run reads the clock
    print(kfp.schedule(kfp.connect(load_profile(), endpoint), name, pipeline, cron, values))


def _read(name: str, parameters: list[str], *, platform: Path | None = None) -> tuple[BaseComponent, dict[str, str]]:
    if name not in NAMES:
        raise typer.BadParameter(f"no pipeline {name!r}; {nearest(name, NAMES)}")
    pipeline = pipelines(platform)[name]
    known = pipeline.component_spec.inputs or {}
    values = {}
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        if not equals or key not in known:
            raise typer.BadParameter(f"{parameter!r}: write name=value; {nearest(key, known)}")
        values[key] = value
    if missing := [key for key, spec in known.items() if not spec.optional and not values.get(key)]:
        raise typer.BadParameter(f"{name} needs {' and '.join(f'{key}=…' for key in missing)}")
    if not values.get("now"):
        values["now"] = clock.now().isoformat()  # read once, for all its steps
    return pipeline, values


def main() -> None:
    warnings.filterwarnings("ignore", module="kfp")
    logging.getLogger("kfp").setLevel(logging.WARNING)
    # The line that says a step came from the cache is on the root logger, at a level that is silent otherwise.
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s - %(message)s")
    try:
        app()
    except EvermodelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
