"""`python -m pipelines`: compile the pipelines, run them through kfp.local, or start them on Kubeflow Pipelines.

The project's `pipelines` package calls `main` with the names of its pipelines and a function that traces them.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from evermodel import clock
from evermodel.errors import EvermodelError, InputError, nearest
from evermodel.execution.kubeflow import submit as kubeflow
from evermodel.execution.kubeflow.compile import Pipeline, compile_pipelines
from evermodel.execution.kubeflow.local import run_locally
from evermodel.execution.kubeflow.platform import PLATFORM
from evermodel.execution.kubernetes_job import take_over_leases
from evermodel.execution.retry import print_line
from evermodel.profile import load_profile
from evermodel.workflow import Project

Name = Annotated[str, typer.Argument()]
Parameters = Annotated[list[str], typer.Argument(help="name=value …: the pipeline's parameters")]
PlatformFile = Annotated[Path | None, typer.Option("--platform", help="what the cluster adds to each step, as YAML")]
Endpoint = Annotated[str | None, typer.Option(envvar="KFP_ENDPOINT", help="default: the profile's kfp_endpoint")]


@dataclass(frozen=True)
class Commands:
    """The commands on a project's pipelines. `trace` builds them; a platform counts only if it is set before that."""

    names: Sequence[str]
    trace: Callable[[], Mapping[str, Pipeline]]

    def compile(
        self,
        out: Annotated[Path, typer.Option(help="folder for the IR YAML")] = Path("pipelines/compiled"),
        platform: PlatformFile = None,
    ) -> None:
        """Write every pipeline's IR YAML."""
        for package in compile_pipelines(self._trace(platform), out):
            print(package)

    def run(self, name: Name, parameters: Parameters) -> None:
        """Run a pipeline here, each step a subprocess; steps with unchanged inputs come from the cache."""
        os.environ.pop(PLATFORM, None)  # a platform is for a cluster
        pipeline, values = self._read(name, parameters)
        project = Project.open()
        _, case = project.find(values["use_case"])
        ledger = project.ledger()
        if "owner" in (pipeline.component_spec.inputs or {}) and not values.get("owner"):
            values["owner"] = take_over_leases(ledger, case.name)  # this process outlives the steps
        known = len(ledger.errors(case.name))
        os.chdir(project.profile.root)
        try:
            run_locally(pipeline, values, folder=project.profile.scratch_folder / "pipelines")
        except RuntimeError as error:  # it names the failed step; the ledger has the step's message
            errors = project.ledger().errors(case.name)[known:]
            cause = f" in {errors[-1].where}: {errors[-1].message}" if errors else f": {error}"
            raise EvermodelError(f"pipeline {name} failed{cause}") from None

    def submit(
        self,
        name: Name,
        parameters: Parameters,
        endpoint: Endpoint = None,
        wait: Annotated[bool, typer.Option("--wait", help="wait for its end; exit code 1 if it fails")] = False,
        platform: PlatformFile = None,
    ) -> None:
        """Start a run on a Kubeflow Pipelines endpoint, or find the one with these parameters; prints its id."""
        pipeline, values = self._read(name, parameters, platform=platform)
        client = kubeflow.connect(load_profile(), endpoint)
        run_id = kubeflow.submit(client, name, pipeline, values)
        print(run_id, flush=True)
        if wait:
            client.wait_for_run(run_id, print_line)

    def schedule(
        self,
        name: Name,
        parameters: Parameters,
        cron: Annotated[str, typer.Option(help="six fields, seconds first: '0 0 * * * *' is hourly")],
        endpoint: Endpoint = None,
        platform: PlatformFile = None,
    ) -> None:
        """Start a recurring run on a Kubeflow Pipelines endpoint, which skips missed times; prints its id."""
        pipeline, values = self._read(name, parameters, platform=platform)
        values.pop("now")  # each run reads the clock
        print(kubeflow.schedule(kubeflow.connect(load_profile(), endpoint), name, pipeline, cron, values))

    def _trace(self, platform: Path | None) -> Mapping[str, Pipeline]:
        if platform is not None:
            os.environ[PLATFORM] = str(platform.resolve())
        return self.trace()

    def _read(
        self, name: str, parameters: list[str], *, platform: Path | None = None
    ) -> tuple[Pipeline, dict[str, str]]:
        """The pipeline of this name, and its parameters by name; `now` is read from the clock if it isn't given."""
        if name not in self.names:
            raise typer.BadParameter(f"no pipeline {name!r}; {nearest(name, self.names)}")
        pipeline = self._trace(platform)[name]
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
            values["now"] = clock.now().isoformat()  # one value for all steps
        return pipeline, values


def build_app(names: Sequence[str], trace: Callable[[], Mapping[str, Pipeline]]) -> typer.Typer:
    """The command line of these pipelines."""
    commands = Commands(names, trace)
    app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__.partition("\n")[0])
    for command in (commands.compile, commands.run, commands.submit, commands.schedule):
        app.command(command.__name__)(command)
    return app


def main(names: Sequence[str], trace: Callable[[], Mapping[str, Pipeline]]) -> None:
    """Run the command line; an error of Evermodel is one line on stderr. Exit code 2 for wrong input, else 1."""
    warnings.filterwarnings("ignore", module="kfp")
    logging.getLogger("kfp").setLevel(logging.WARNING)
    # kfp.local logs a cache hit on the root logger at level INFO, which is off by default.
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s - %(message)s")
    try:
        build_app(names, trace)()
    except EvermodelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
