"""Train or score on a Ray cluster of its own: fill in the RayJob's template, apply it, wait for its end.

A job has a name by its run key and carries the digest of what it reads. So whoever asks again (the same step after its
pod was killed) finds the job and goes on waiting, asks for nothing where it is done, and starts it over where it had
failed or was of other inputs. Nothing here stops a job because the one that waits is stopped.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from evermodel import storage
from evermodel.errors import EvermodelError, InputError
from evermodel.execution import entrypoint
from evermodel.execution.kubernetes_api import (
    RAY_JOBS,
    KubernetesApi,
    Manifest,
    RetryPolicy,
    owner_of_this_pod,
    retry,
)
from evermodel.profile import Profile
from evermodel.records import sha256

INPUTS = "evermodel.io/inputs"
ENDED = {"Complete", "Failed", "ValidationFailed"}
NAME_LENGTH = 40  # KubeRay takes 47 with the verb before it
SLACK_SECONDS = 900.0  # for the operator to notice a deadline, beyond the job's own


@dataclass(frozen=True)
class Ask:
    """What is wanted of a job: the verb and folder of its entry point, and what it is to be known by."""

    verb: entrypoint.Verb
    folder: str
    key: str
    use_case: str
    inputs: str

    @property
    def name(self) -> str:
        """`train-<key>` or `batch-<key>`, as a DNS label: a key that isn't one is shortened to what is, and its digest."""
        plain = re.sub(r"[^a-z0-9-]+", "-", self.key.lower()).strip("-")
        if plain != self.key or len(plain) > NAME_LENGTH:
            plain = f"{plain[: NAME_LENGTH - 13].strip('-')}-{sha256(self.key.encode())[:12]}".lstrip("-")
        return f"{self.verb.rpartition('-')[2]}-{plain}"


def on_ray(
    profile: Profile, verb: entrypoint.Verb, folder: str, *, key: str, use_case: str, policy: RetryPolicy | None = None
) -> None:
    """Have `python -m evermodel.execution.entrypoint VERB FOLDER` done on the cluster that the profile's template describes.

    What the job reads lies in `folder`, and what it leaves will. EvermodelError where it fails, with what it said.
    """
    ask = Ask(verb, folder, key, use_case, entrypoint.inputs(verb, folder))
    if entrypoint.is_done(verb, folder, ask.inputs):
        return
    api, policy = KubernetesApi.connect(profile.namespace), policy or RetryPolicy()
    template = read_template(profile, "ray_job")
    owner = retry(lambda: owner_of_this_pod(api), policy)
    JobWait(api, ask, filled(template, ask, num_workers=profile.num_workers, owner=owner), policy).to_the_end()


def read_template(profile: Profile, key: str) -> Manifest:
    """The manifest that a profile's key names."""
    place = profile.root / str(getattr(profile, key))
    try:
        template = yaml.safe_load(storage.read_text(place))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{key}: {place}: {error}") from None
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        raise InputError(f"{key}: {place} is no manifest: it has no spec")
    return template


def filled(template: Manifest, ask: Ask, *, num_workers: int, owner: Manifest | None) -> Manifest:
    """The template as the job that is asked for. The first group of workers gets their number."""
    manifest = copy.deepcopy(template)
    metadata = manifest.setdefault("metadata", {})
    metadata["name"] = ask.name
    labels = {"evermodel.io/use-case": label(ask.use_case), "evermodel.io/run-key": label(ask.key)}
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    metadata["annotations"] = {**metadata.get("annotations", {}), INPUTS: ask.inputs}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    spec = manifest["spec"]
    spec["entrypoint"] = shlex.join(["python", "-m", "evermodel.execution.entrypoint", ask.verb, ask.folder])
    groups = spec.get("rayClusterSpec", {}).get("workerGroupSpecs", [])
    if groups and num_workers:
        spread_over(groups[0], num_workers, scaling=spec["rayClusterSpec"].get("enableInTreeAutoscaling", False))
    return manifest


def spread_over(group: Manifest, count: int, *, scaling: bool) -> None:
    """So many workers from the start; an autoscaler may go below them, where the template lets it."""
    group["replicas"] = count
    group["maxReplicas"] = max(count, group.get("maxReplicas", 0))
    group["minReplicas"] = min(count, group.get("minReplicas", count)) if scaling else count


def label(text: str) -> str:
    """A text as a label's value may be."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:63].strip("-_.")


@dataclass
class JobWait:
    """The wait for one job."""

    api: KubernetesApi
    ask: Ask
    manifest: Manifest
    policy: RetryPolicy

    def to_the_end(self) -> None:
        """Find or start the job, tell of its progress, and clean up after a good end."""
        self._begin()
        tell = ProgressLog(self.policy.say, self.ask.name)
        limit = self._limit()
        while True:
            found = retry(self._get, self.policy)
            if found is None:
                self._gone()
                return
            status = found.get("status", {})
            tell(_state(status))
            tell(progress(self.ask.folder))
            if status.get("jobDeploymentStatus") in ENDED:
                break
            if self.policy.clock() > limit:
                raise EvermodelError(f"RayJob {self.ask.name} goes on beyond its deadline: is the KubeRay operator up?")
            self.policy.sleep(self.policy.poll)
        if status.get("jobStatus") != "SUCCEEDED":
            raise EvermodelError(_why(self.ask.name, status))
        if not entrypoint.is_done(self.ask.verb, self.ask.folder, self.ask.inputs):
            raise EvermodelError(
                f"RayJob {self.ask.name} says that it succeeded, and left nothing in {self.ask.folder}"
            )
        retry(self._delete, self.policy)

    def _begin(self) -> None:
        """The running job of these inputs is left alone; any other of that name is in the way."""
        found = retry(self._get, self.policy)
        if found is not None and not self._is_live(found):
            self.policy.say(f"RayJob {self.ask.name}: an earlier one is in the way, and is deleted")
            retry(self._delete, self.policy)
            self._until_gone()
            found = None
        if found is None:
            retry(lambda: self.api.apply(RAY_JOBS, self.manifest), self.policy)
            self.policy.say(f"RayJob {self.ask.name}: applied")
        else:
            self.policy.say(f"RayJob {self.ask.name}: found, and waited for")

    def _is_live(self, found: Manifest) -> bool:
        status, metadata = found.get("status", {}), found["metadata"]
        same = metadata.get("annotations", {}).get(INPUTS) == self.ask.inputs
        failed = status.get("jobDeploymentStatus") in ENDED and status.get("jobStatus") != "SUCCEEDED"
        return same and not failed and "deletionTimestamp" not in metadata

    def _until_gone(self) -> None:
        end = self.policy.clock() + self.policy.patience
        while retry(self._get, self.policy) is not None:
            if self.policy.clock() > end:
                raise EvermodelError(f"RayJob {self.ask.name} was deleted, and is still there: look at its finalizers")
            self.policy.sleep(self.policy.poll)

    def _gone(self) -> None:
        """Deleted after a good end is as good as an end; before it, somebody stopped the run."""
        if not self._is_done():
            raise EvermodelError(f"RayJob {self.ask.name} was deleted before it had ended")

    def _limit(self) -> float:
        spec = self.manifest["spec"]
        deadline = spec.get("activeDeadlineSeconds")
        tries = 1 + int(spec.get("backoffLimit", 0))
        return self.policy.clock() + (deadline * tries + SLACK_SECONDS if deadline else float("inf"))

    def _is_done(self) -> bool:
        return retry(lambda: entrypoint.is_done(self.ask.verb, self.ask.folder, self.ask.inputs), self.policy)

    def _get(self) -> Manifest | None:
        return self.api.get(RAY_JOBS, self.ask.name)

    def _delete(self) -> None:
        self.api.delete(RAY_JOBS, self.ask.name)


class ProgressLog:
    """Says each thing once, as it changes."""

    def __init__(self, say: Callable[[str], None], name: str) -> None:
        self._say, self._name = say, name
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        if text and text not in self._said:
            self._said.add(text)
            self._say(f"RayJob {self._name}: {text}")


def progress(folder: str) -> str:
    """The last line that the job has left of how far it is; empty before the first."""
    try:
        lines = [storage.read_text(place).strip() for place in storage.list_files(folder, suffix="progress.txt")]
    except OSError:  # removed since it was listed, as that part is done; or storage is away: it is only to be told
        return ""
    return lines[-1] if lines else ""


def _state(status: Manifest) -> str:
    words = [status.get("jobDeploymentStatus"), status.get("jobStatus")]
    told = " / ".join(str(word) for word in words if word) or "waiting for the operator"
    cluster = status.get("rayClusterName")
    return f"{told} on {cluster}" if cluster else told


def _why(name: str, status: dict[str, Any]) -> str:
    """A failure in the job's own words: Ray puts the last lines of the driver's log into its message."""
    message = str(status.get("message") or "").strip()
    if status.get("reason") == "DeadlineExceeded":
        return f"RayJob {name} went over its deadline (activeDeadlineSeconds): {message}"
    said = [line for line in message.splitlines() if line.startswith("error: ")]
    cause = said[-1].removeprefix("error: ") if said else message[-3000:]
    how = " ".join(str(status[key]) for key in ("jobStatus", "reason") if status.get(key))
    return f"RayJob {name} failed ({how or status.get('jobDeploymentStatus')}): {cause or 'without a message'}"
