"""The launcher of clusters without Kubeflow Pipelines: a Kubernetes Job that runs the pipeline through kfp.local.

The Job is named by the pipeline and its parameters, so a second launch finds it. If its pod is killed, the Job starts
another one. That pod takes over the leases of the pod before it (a Job has one pod at a time), and goes on from what is
on shared storage.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass

from evermodel import storage
from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubernetes_api import JOBS, KubernetesApi, Manifest, delete_and_wait
from evermodel.execution.ray_job import label_value, read_template
from evermodel.execution.retry import ProgressLog, Report, RetryPolicy, poll, print_line, retry
from evermodel.ledger import Ledger
from evermodel.ledger.lease import this_process
from evermodel.profile import Profile
from evermodel.records import canonical_json, sha256

JOB_NAME = "PIPELINE_JOB"  # the pod's environment variable with the name of its Job


@dataclass(frozen=True)
class JobResult:
    """A Job that has ended: whether it succeeded, the output of its last pod, and the reason of a failure."""

    name: str
    succeeded: bool
    log: str
    reason: str = ""


def run_job(
    profile: Profile,
    pipeline: str,
    parameters: dict[str, str],
    *,
    policy: RetryPolicy | None = None,
    report: Report = print_line,
) -> JobResult:
    """Run a pipeline as a Job, or find the Job that runs it or has run it, and wait for its end."""
    api, policy = KubernetesApi.connect(profile.namespace), policy or RetryPolicy()
    manifest = fill_template(read_template(profile, "job"), pipeline, parameters)
    name = manifest["metadata"]["name"]
    existing = retry(lambda: api.get(JOBS, name), policy)
    if existing is not None and (_end(existing) or ("", ""))[0] == "Failed":
        delete_and_wait(api, JOBS, name, policy)
        existing = None
    if existing is None:
        retry(lambda: api.apply(JOBS, manifest), policy)
    report(f"Job {name}: {'applied' if existing is None else 'found; waiting for its end'}")
    return _wait_for_end(api, name, policy, report)


def fill_template(template: Manifest, pipeline: str, parameters: dict[str, str]) -> Manifest:
    """The template as the Job of one pipeline with these parameters; `owner` is left out, since the Job is the owner."""
    given = {key: value for key, value in parameters.items() if key != "owner"}
    digest = sha256(canonical_json([pipeline, given]).encode())[:16]
    manifest = copy.deepcopy(template)
    metadata = manifest.setdefault("metadata", {})
    name = f"{pipeline.replace('_', '-')}-{digest}"
    use_case = label_value(storage.Uri.parse(given["use_case"]).stem)
    labels = {"evermodel.io/pipeline": label_value(pipeline), "evermodel.io/use-case": use_case}
    metadata.update(name=name, labels={**metadata.get("labels", {}), **labels})
    containers = manifest["spec"].get("template", {}).get("spec", {}).get("containers")
    if not containers:
        raise InputError("job: the template has no container to run a pipeline in")
    words = ["python", "-m", "pipelines", "run", pipeline, *(f"{key}={value}" for key, value in given.items())]
    container = containers[0]
    container["command"], container["args"] = words[:3], [word.replace("$(", "$$(") for word in words[3:]]
    others = [variable for variable in container.get("env", []) if variable["name"] != JOB_NAME]
    container["env"] = [*others, {"name": JOB_NAME, "value": name}]
    return manifest


def _wait_for_end(api: KubernetesApi, name: str, policy: RetryPolicy, report: Report) -> JobResult:
    log = ProgressLog(report, f"Job {name}")

    def read() -> Manifest:
        found = retry(lambda: api.get(JOBS, name), policy)
        if found is None:
            raise EvermodelError(f"Job {name} was deleted before its end")
        status = found.get("status", {})
        log.add(f"{status.get('active', 0)} active, {status.get('failed', 0)} failed")
        return found

    ended = poll(read, lambda found: _end(found) is not None, policy)
    word, reason = _end(ended) or ("", "")
    return JobResult(name, word == "Complete", retry(lambda: _newest_log(api, name), policy), reason)


def _end(job: Manifest) -> tuple[str, str] | None:
    """`Complete` or `Failed`, and the reason; None if the Job still runs."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["type"], f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None


def _newest_log(api: KubernetesApi, name: str) -> str:
    """The output of the Job's newest pod; empty if its pods are gone."""
    pods = api.pods(f"batch.kubernetes.io/job-name={name}")
    return api.log(pods[-1]["metadata"]["name"]) if pods else ""


def take_over_leases(ledger: Ledger, use_case: str) -> str:
    """Release the leases of the earlier pods of this pod's Job, so that their runs can go on; this process as an owner.

    Those pods are gone when this one runs. Outside of a Job it releases nothing.
    """
    job = os.environ.get(JOB_NAME)
    if not job:
        return this_process("pipeline")
    me = this_process(f"job/{job}")
    for lease in ledger.leases(use_case):
        if lease.owner.startswith(f"job/{job}@") and lease.owner != me:
            ledger.release_lease(lease.key, owner=lease.owner)
    return me
