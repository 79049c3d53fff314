"""Train or score on a Ray cluster of its own: fill in the RayJob's template, apply it, wait for its end.

A job is named by its run key and carries the digest of its inputs. So a step that was killed and starts again finds the
job and waits on. A finished job isn't started again; a failed one, or one of other inputs, is replaced. A job goes on if
the process that waits for it stops.
"""

from __future__ import annotations

import copy
import math
import re
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from evermodel import storage
from evermodel.errors import EvermodelError, InputError
from evermodel.execution import entrypoint
from evermodel.execution.kubernetes_api import RAY_JOBS, KubernetesApi, Manifest, delete_and_wait, owner_of_this_pod
from evermodel.execution.retry import ProgressLog, Report, RetryPolicy, poll, print_line, retry
from evermodel.profile import Profile
from evermodel.records import sha256

INPUTS = "evermodel.io/inputs"
ENDED = {"Complete", "Failed", "ValidationFailed"}
NAME_LENGTH = 40  # KubeRay allows 47, with the verb before it
SLACK_SECONDS = 900.0  # beyond the job's own deadline, for the operator to act on it


@dataclass(frozen=True)
class RayJob:
    """The verb and folder of a job's entry point, and the job's name, labels and input digest."""

    verb: entrypoint.Verb
    folder: str
    key: str
    use_case: str
    input_digest: str

    @property
    def name(self) -> str:
        """`train-<key>` or `batch-<key>`, as a DNS label: a key that isn't one is cut, and gets its digest at the end."""
        plain = re.sub(r"[^a-z0-9-]+", "-", self.key.lower()).strip("-")
        if plain != self.key or len(plain) > NAME_LENGTH:
            plain = f"{plain[: NAME_LENGTH - 13].strip('-')}-{sha256(self.key.encode())[:12]}".lstrip("-")
        return f"{self.verb.rpartition('-')[2]}-{plain}"

    def is_done(self) -> bool:
        return entrypoint.is_done(self.verb, self.folder, self.input_digest)


def run_ray_job(
    profile: Profile,
    verb: entrypoint.Verb,
    folder: str,
    *,
    key: str,
    use_case: str,
    policy: RetryPolicy | None = None,
    report: Report = print_line,
) -> None:
    """Run the entry point's `verb` on `folder` as a RayJob by the profile's template, and wait for its end.

    The folder holds the job's inputs, and its results afterwards. EvermodelError with the job's message if it fails.
    """
    job = RayJob(verb, folder, key, use_case, entrypoint.input_digest(verb, folder))
    if job.is_done():
        return
    api, policy = KubernetesApi.connect(profile.namespace), policy or RetryPolicy()
    template = read_template(profile, "ray_job")
    owner = retry(lambda: owner_of_this_pod(api), policy)
    manifest = fill_template(template, job, num_workers=profile.num_workers, owner=owner)
    start_job(api, job, manifest, policy, report)
    wait_for_job(api, job, manifest["spec"], policy, report)


def read_template(profile: Profile, key: str) -> Manifest:
    """The manifest in the file that the profile's `key` names."""
    place = profile.root / str(getattr(profile, key))
    try:
        template = yaml.safe_load(storage.read_text(place))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{key}: {place}: {error}") from None
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise InputError(f"{key}: {place} is no manifest: it has no spec")
    return template


def fill_template(template: Manifest, job: RayJob, *, num_workers: int, owner: Manifest | None) -> Manifest:
    """The template as the manifest of `job`; its first group of workers gets their number."""
    manifest = copy.deepcopy(template)
    metadata = manifest.setdefault("metadata", {})
    metadata["name"] = job.name
    labels = {"evermodel.io/use-case": label_value(job.use_case), "evermodel.io/run-key": label_value(job.key)}
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    metadata["annotations"] = {**metadata.get("annotations", {}), INPUTS: job.input_digest}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    spec = manifest["spec"]
    spec["entrypoint"] = shlex.join(["python", "-m", "evermodel.execution.entrypoint", job.verb, job.folder])
    groups = spec.get("rayClusterSpec", {}).get("workerGroupSpecs", [])
    if groups and num_workers:
        set_worker_count(groups[0], num_workers, scaling=spec["rayClusterSpec"].get("enableInTreeAutoscaling", False))
    return manifest


def set_worker_count(group: Manifest, count: int, *, scaling: bool) -> None:
    """Start with `count` workers; an autoscaler (`scaling`) may go down to the template's minimum."""
    group["replicas"] = count
    group["maxReplicas"] = max(count, group.get("maxReplicas", 0))
    group["minReplicas"] = min(count, group.get("minReplicas", count)) if scaling else count


def label_value(text: str) -> str:
    """A text as a valid value of a Kubernetes label."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:63].strip("-_.")


def start_job(api: KubernetesApi, job: RayJob, manifest: Manifest, policy: RetryPolicy, report: Report) -> None:
    """Apply the manifest, unless a job with these inputs runs; any other job of that name is deleted first."""
    existing = retry(lambda: api.get(RAY_JOBS, job.name), policy)
    if existing is not None and _is_reusable(existing, job):
        report(f"RayJob {job.name}: found; waiting for its end")
        return
    if existing is not None:
        report(f"RayJob {job.name}: deleting an earlier job of this name")
        delete_and_wait(api, RAY_JOBS, job.name, policy)
    retry(lambda: api.apply(RAY_JOBS, manifest), policy)
    report(f"RayJob {job.name}: applied")


def _is_reusable(existing: Manifest, job: RayJob) -> bool:
    status, metadata = existing.get("status", {}), existing["metadata"]
    same = metadata.get("annotations", {}).get(INPUTS) == job.input_digest
    failed = status.get("jobDeploymentStatus") in ENDED and status.get("jobStatus") != "SUCCEEDED"
    return same and not failed and "deletionTimestamp" not in metadata


def wait_for_job(api: KubernetesApi, job: RayJob, spec: Manifest, policy: RetryPolicy, report: Report) -> None:
    """Wait until the job has ended and its result is there, report its progress, and delete it.

    EvermodelError if it fails, exceeds its deadline or leaves no result, or if somebody deletes it before its end.
    """
    log = ProgressLog(report, f"RayJob {job.name}")

    def read() -> Manifest | None:
        found = retry(lambda: api.get(RAY_JOBS, job.name), policy)
        if found is not None:
            log.add(_state(found.get("status", {})))
            log.add(read_progress(job.folder), kind="progress")
        return found

    found = poll(read, lambda found: found is None or _has_ended(found), policy, limit_seconds=_limit_seconds(spec))
    if found is None:
        if not retry(job.is_done, policy):
            raise EvermodelError(f"RayJob {job.name} was deleted before its end")
        return
    if not _has_ended(found):
        raise EvermodelError(f"RayJob {job.name} still runs after its deadline: is the KubeRay operator up?")
    if found["status"].get("jobStatus") != "SUCCEEDED":
        raise EvermodelError(_failure(job.name, found["status"]))
    if not retry(job.is_done, policy):
        raise EvermodelError(f"RayJob {job.name} succeeded by its status, but left no result in {job.folder}")
    retry(lambda: api.delete(RAY_JOBS, job.name), policy)


def _has_ended(found: Manifest) -> bool:
    return found.get("status", {}).get("jobDeploymentStatus") in ENDED


def _limit_seconds(spec: Manifest) -> float:
    deadline, tries = spec.get("activeDeadlineSeconds"), 1 + int(spec.get("backoffLimit", 0))
    return deadline * tries + SLACK_SECONDS if deadline else math.inf


def read_progress(folder: str) -> str:
    """The newest progress line of the job; empty before the first."""
    try:
        lines = [storage.read_text(place).strip() for place in storage.list_files(folder, suffix="progress.txt")]
    except OSError:  # the file was removed after the listing, or storage is away: progress is optional
        return ""
    return lines[-1] if lines else ""


def _state(status: Manifest) -> str:
    words = [str(word) for word in (status.get("jobDeploymentStatus"), status.get("jobStatus")) if word]
    state = " / ".join(words) or "waiting for the operator"
    cluster = status.get("rayClusterName")
    return f"{state} on {cluster}" if cluster else state


def _failure(name: str, status: dict[str, Any]) -> str:
    """The cause in the job's own words: Ray's message holds the last lines of the driver's log."""
    message = str(status.get("message") or "").strip()
    if status.get("reason") == "DeadlineExceeded":
        return f"RayJob {name} exceeded its deadline (activeDeadlineSeconds): {message}"
    errors = [line for line in message.splitlines() if line.startswith("error: ")]
    cause = errors[-1].removeprefix("error: ") if errors else message[-3000:]
    state = " ".join(str(status[key]) for key in ("jobStatus", "reason") if status.get(key))
    return f"RayJob {name} failed ({state or status.get('jobDeploymentStatus')}): {cause or 'without a message'}"
