"""The launcher of clusters without Kubeflow Pipelines: a Kubernetes Job that runs the compiled pipeline by kfp.local.

The Job is named by what it runs, so asking again finds it. Its pod may be killed at any time: the Job starts another,
which takes over the leases of the one before (a Job has one pod at a time) and goes on from what is on shared storage.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass

from evermodel.errors import EvermodelError, InputError
from evermodel.execution.kubernetes_api import JOBS, KubernetesApi, Manifest, RetryPolicy, retry
from evermodel.execution.ray_job import label, read_template
from evermodel.ledger import Ledger
from evermodel.ledger.lease import this_process
from evermodel.profile import Profile
from evermodel.records import canonical_json, sha256

JOB_NAME = "PIPELINE_JOB"  # in the pod's environment: which Job it belongs to


@dataclass(frozen=True)
class JobRun:
    """A Job that has ended: whether well, and what its last pod printed."""

    name: str
    succeeded: bool
    log: str
    reason: str = ""


def run_job(
    profile: Profile, pipeline: str, parameters: dict[str, str], *, policy: RetryPolicy | None = None
) -> JobRun:
    """Run a pipeline as a Job, or find the one that runs it or has run it; come back when it has ended."""
    api, policy = KubernetesApi.connect(profile.namespace), policy or RetryPolicy()
    manifest = filled(read_template(profile, "job"), pipeline, parameters)
    name = manifest["metadata"]["name"]
    found = retry(lambda: api.get(JOBS, name), policy)
    if found is not None and (_ended(found) or ("", ""))[0] == "Failed":
        retry(lambda: api.delete(JOBS, name), policy)
        while retry(lambda: api.get(JOBS, name), policy) is not None:
            policy.sleep(policy.poll)
        found = None
    if found is None:
        retry(lambda: api.apply(JOBS, manifest), policy)
    policy.say(f"Job {name}: {'applied' if found is None else 'found, and waited for'}")
    return _wait(api, name, policy)


def filled(template: Manifest, pipeline: str, parameters: dict[str, str]) -> Manifest:
    """The template as the Job of one pipeline with these parameters. Its owner is the Job itself, whichever its pod."""
    asked = {key: value for key, value in parameters.items() if key != "owner"}
    digest = sha256(canonical_json([pipeline, asked]).encode())[:16]
    manifest = copy.deepcopy(template)
    metadata = manifest.setdefault("metadata", {})
    name = f"{pipeline.replace('_', '-')}-{digest}"
    labels = {"evermodel.io/pipeline": label(pipeline), "evermodel.io/use-case": label(_stem(asked["use_case"]))}
    metadata.update(name=name, labels={**metadata.get("labels", {}), **labels})
    containers = manifest["spec"].get("template", {}).get("spec", {}).get("containers")
    if not containers:
        raise InputError("job: the template has no container to run a pipeline in")
    words = ["python", "-m", "pipelines", "run", pipeline, *(f"{key}={value}" for key, value in asked.items())]
    container = containers[0]
    container.pop("command", None)
    container["command"], container["args"] = words[:3], [word.replace("$(", "$$(") for word in words[3:]]
    others = [one for one in container.get("env", []) if one["name"] != JOB_NAME]
    container["env"] = [*others, {"name": JOB_NAME, "value": name}]
    return manifest


def _stem(use_case: str) -> str:
    """`fraud` of `fraud`, a path or a URI."""
    return use_case.partition("?")[0].rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")


def _wait(api: KubernetesApi, name: str, policy: RetryPolicy) -> JobRun:
    told = ""
    while True:
        found = retry(lambda: api.get(JOBS, name), policy)
        if found is None:
            raise EvermodelError(f"Job {name} was deleted before it had ended")
        status = found.get("status", {})
        state = f"{status.get('active', 0)} active, {status.get('failed', 0)} failed"
        if state != told:
            told = state
            policy.say(f"Job {name}: {state}")
        if (ended := _ended(found)) is not None:
            word, reason = ended
            return JobRun(name, word == "Complete", retry(lambda: _log(api, name), policy), reason)
        policy.sleep(policy.poll)


def _ended(found: Manifest) -> tuple[str, str] | None:
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["type"], f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None


def _log(api: KubernetesApi, name: str) -> str:
    """What the newest pod printed; empty where pods are gone already."""
    pods = api.pods(f"batch.kubernetes.io/job-name={name}")
    return api.log(pods[-1]["metadata"]["name"]) if pods else ""


def take_over(ledger: Ledger, use_case: str) -> str:
    """The owner of a pipeline's leases that this process is. In a pod of a Job it comes after the Job's earlier pods,
    which are gone: what they held is given back, so that their run can go on."""
    job = os.environ.get(JOB_NAME)
    if not job:
        return this_process("pipeline")
    me = this_process(f"job/{job}")
    for lease in ledger.leases(use_case):
        if lease.owner.startswith(f"job/{job}@") and lease.owner != me:
            ledger.release_lease(lease.key, owner=lease.owner)
    return me
