"""Start a pipeline run by the profile's launcher, and wait for its end. Its result is in the ledger.

`local` runs `python -m pipelines run …` in a subprocess, with its output in a log file, so that it doesn't mix with the
output of a command. `job` does the same in a Kubernetes Job. `kfp` submits the run to Kubeflow Pipelines, in a
subprocess too: `python -m pipelines submit … --wait`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from evermodel import storage
from evermodel.errors import EvermodelError
from evermodel.profile import Profile
from evermodel.records import Window

QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class LaunchResult:
    """A pipeline run that has ended: its exit status, the path of its output, and the number of steps from the cache."""

    returncode: int
    log: str
    cached_steps: int


def launch(profile: Profile, pipeline: str, parameters: dict[str, str], *, log_name: str) -> LaunchResult:
    """Run a pipeline to its end; EvermodelError with the cause, or the log's last lines, if it fails."""
    log = profile.scratch_folder / "runs" / f"{log_name}.log"
    storage.make_folder(log.parent)
    if profile.launcher == "job":
        returncode = _run_in_job(profile, pipeline, parameters, log)
    else:
        returncode = _run_in_subprocess(profile, pipeline, parameters, log)
    text = storage.read_text(log)
    if returncode != 0:
        raise EvermodelError(_failure(pipeline, text, log))
    return LaunchResult(returncode, str(log), text.count(" cache hit (key="))


def _run_in_subprocess(profile: Profile, pipeline: str, parameters: dict[str, str], log: Path) -> int:
    verb = ["submit", "--wait"] if profile.launcher == "kfp" else ["run"]
    given = {key: value for key, value in parameters.items() if verb == ["run"] or key != "owner"}
    command = [sys.executable, "-m", "pipelines", *verb, pipeline, *(f"{k}={v}" for k, v in given.items())]
    with storage.open_log(log) as output:
        done = subprocess.run(
            command, cwd=profile.root, env=environment(profile), stdout=output, stderr=subprocess.STDOUT
        )
    return done.returncode


def _run_in_job(profile: Profile, pipeline: str, parameters: dict[str, str], log: Path) -> int:
    from evermodel.execution.kubernetes_job import run_job

    result = run_job(profile, pipeline, parameters)
    text = result.log if result.succeeded or result.log else f"error: Job {result.name} failed: {result.reason}\n"
    storage.write_text(log, text)
    return 0 if result.succeeded else 1


def _failure(pipeline: str, text: str, log: Path) -> str:
    lines = text.strip().splitlines()
    if lines and lines[-1].startswith("error: "):  # the program's own message, in one line
        return f"{lines[-1].removeprefix('error: ')} (log: {log})"
    tail = "\n".join(lines[-15:])
    return f"pipeline {pipeline} failed (log: {log}):\n{tail}"


def environment(profile: Profile) -> dict[str, str]:
    """The environment of a subprocess of the project: telemetry off, the project's folder, its own packages importable."""
    return {**os.environ, **QUIET, "EVERMODEL_PROJECT": str(profile.root), "PYTHONPATH": _python_path(profile.root)}


def _python_path(root: Path) -> str:
    """The project's folder first: `pipelines` and `components` belong to the project and aren't installed."""
    return os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])


def training_parameters(
    *,
    use_case: str,
    windows: str,
    mode: str,
    reason: str,
    now: datetime,
    owner: str = "",
    key: str = "",
    trigger: Window | None = None,
) -> dict[str, str]:
    """The parameters of the training pipeline, as texts; the run fills in the empty ones.

    Without an `owner` the run's own process holds its lease, because it may outlive the process that launches it.
    """
    return {
        "use_case": use_case,
        "windows": windows,
        "mode": mode,
        "reason": reason,
        "now": now.isoformat(),
        "owner": owner,
        "retrain_key": key,
        "trigger": trigger.to_json() if trigger else "",
    }
