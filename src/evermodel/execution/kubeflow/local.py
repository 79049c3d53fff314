"""Run a pipeline here through kfp.local: each step is a subprocess, and unchanged steps come from the cache."""

from pathlib import Path

from kfp import local

from evermodel.execution.kubeflow.compile import Pipeline


def run_locally(pipeline: Pipeline, values: dict[str, str], *, folder: Path) -> None:
    """Run to the end, with outputs and cache in `folder`; RuntimeError with the name of the step that fails."""
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner=runner, pipeline_root=str(folder), raise_on_error=True, enable_caching=True)
    pipeline(**values)
