"""Start a pipeline run and read its result from the ledger: an orchestrator's own status doesn't carry the cause.

One seam, three launchers, by the profile: `local` runs the pipeline in a subprocess of its own (`python -m pipelines
run …`) with its output in a log file, so that what it prints never mixes with what a command prints; `job` has a
Kubernetes Job do the same; `kfp` submits it to Kubeflow Pipelines (`python -m pipelines submit … --wait`, a subprocess
too: the library never imports kfp).
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
class Launched:
    """A pipeline run that has ended: its exit status, where its output lies, and which steps came from the cache."""

    returncode: int
    log: str
    cached_steps: int


def launch(profile: Profile, pipeline: str, parameters: dict[str, str], *, log_name: str) -> Launched:
    """Run a pipeline to its end; EvermodelError with the cause, or the log's last lines, where it fails."""
    log = profile.scratch_folder / "runs" / f"{log_name}.log"
    storage.make_folder(log.parent)
    if profile.launcher == "job":
        returncode = _in_a_job(profile, pipeline, parameters, log)
    else:
        returncode = _in_a_subprocess(profile, pipeline, parameters, log)
    text = storage.read_text(log)
    if returncode != 0:
        raise EvermodelError(_why(pipeline, text, log))
    return Launched(returncode, str(log), text.count(" cache hit (key="))


def _in_a_subprocess(profile: Profile, pipeline: str, parameters: dict[str, str], log: Path) -> int:
    verb = ["submit", "--wait"] if profile.launcher == "kfp" else ["run"]
    given = {key: value for key, value in parameters.items() if verb == ["run"] or key != "owner"}
    command = [sys.executable, "-m", "pipelines", *verb, pipeline, *(f"{k}={v}" for k, v in given.items())]
    with storage.open_log(log) as output:
        done = subprocess.run(
            command, cwd=profile.root, env=environment(profile), stdout=output, stderr=subprocess.STDOUT
        )
    return done.returncode


def _in_a_job(profile: Profile, pipeline: str, parameters: dict[str, str], log: Path) -> int:
    from evermodel.execution.kubernetes_job import run_job

    done = run_job(profile, pipeline, parameters)
    told = done.log if done.succeeded or done.log else f"error: Job {done.name} failed: {done.reason}\n"
    storage.write_text(log, told)
    return 0 if done.succeeded else 1


def _why(pipeline: str, text: str, log: Path) -> str:
    lines = text.strip().splitlines()
    if lines and lines[-1].startswith("error: "):  # it said why, in one line
        return f"{lines[-1].removeprefix('error: ')} (log: {log})"
    tail = "\n".join(lines[-15:])
    return f"pipeline {pipeline} failed (log: {log}):\n{tail}"


def environment(profile: Profile) -> dict[str, str]:
    """What a subprocess of the project is given: telemetry off, the project's folder, and its own packages to import."""
    return {**os.environ, **QUIET, "EVERMODEL_PROJECT": str(profile.root), "PYTHONPATH": _path(profile.root)}


def _path(root: Path) -> str:
    """The project's own folder first: `pipelines` and `components` are not installed, they belong to the project."""
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
    """The parameters of the training pipeline, as texts; what is empty is settled by the run itself.

    Without an `owner` the run's own process holds its lease: it may outlive the one that asks for it.
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
