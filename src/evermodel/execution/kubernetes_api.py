"""What a launcher asks of the Kubernetes API, and nothing more: apply, merge, read, delete, list, logs.

The only module that imports the kubernetes client. It speaks by paths and plain dicts: a custom resource has no class
there, and what a manifest says is what is sent. A server that is away for a moment is a ConnectionError, which
`follow` sits out; all else that it refuses is an EvermodelError that names what was asked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from evermodel import storage
from evermodel.errors import ConflictError, EvermodelError

Manifest = dict[str, Any]
Answer = TypeVar("Answer")
FIELD_MANAGER = "evermodel"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIMEOUT = (5, 30)  # seconds to connect, to read
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 600.0  # an API server that is away for longer is not coming back for this run


@dataclass(frozen=True)
class Kind:
    """A resource as paths name it."""

    api: str
    plural: str


RAY_JOBS = Kind("apis/ray.io/v1", "rayjobs")
JOBS = Kind("apis/batch/v1", "jobs")
PODS = Kind("api/v1", "pods")


class KubernetesApi:
    """One namespace of one cluster."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client, self.namespace = client, namespace

    @classmethod
    def connect(cls, namespace: str | None = None) -> KubernetesApi:
        """By the pod's ServiceAccount, or by KUBECONFIG where that is set; EvermodelError where there is neither."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise EvermodelError("the launcher needs the kubernetes client: pip install 'evermodel[k8s]'") from None
        settings = client.Configuration()
        settings.retries = 0  # who waits tries again, and says so
        inside = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        try:
            if inside:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
        except config.ConfigException as error:
            raise EvermodelError(f"no Kubernetes to ask: {error}") from None
        if namespace is None:
            namespace = storage.read_text(f"{SERVICE_ACCOUNT}/namespace").strip() if inside else "default"
        return cls(client.ApiClient(settings), namespace)

    def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Server-side apply: the object is there and says this, however often it is asked."""
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        name = manifest["metadata"]["name"]
        applied = self._ask("PATCH", kind, name, query=query, body=manifest, content="application/apply-patch+yaml")
        return dict(applied)

    def merge(self, kind: Kind, name: str, patch: Manifest) -> None:
        """Change what the patch names; ConflictError where it holds a resourceVersion that isn't the object's any more."""
        self._ask("PATCH", kind, name, body=patch, content="application/merge-patch+json")

    def get(self, kind: Kind, name: str) -> Manifest | None:
        """None where there is none of that name."""
        found = self._ask("GET", kind, name, absent=None)
        return dict(found) if found is not None else None

    def delete(self, kind: Kind, name: str) -> None:
        """Ask for its end, and that of what it owns; nothing where it isn't there."""
        self._ask("DELETE", kind, name, query=[("propagationPolicy", "Background")], absent=None)

    def pods(self, selector: str) -> list[Manifest]:
        """The pods with these labels, oldest first."""
        found = self._ask("GET", PODS, query=[("labelSelector", selector)])
        return sorted(found["items"], key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))

    def log(self, pod: str, *, lines: int | None = None) -> str:
        """What a pod has printed; empty where it has printed nothing yet or is gone."""
        query = [("tailLines", str(lines))] if lines else []
        return str(self._ask("GET", PODS, f"{pod}/log", query=query, absent="", text=True))

    def _ask(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        *,
        query: list[tuple[str, str]] | None = None,
        body: Manifest | None = None,
        content: str = "application/json",
        text: bool = False,
        **absent: Any,
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        path = f"/{kind.api}/namespaces/{self.namespace}/{kind.plural}" + (f"/{name}" if name else "")
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "*/*" if text else "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT,
            )
            data = answer.data.decode()
            return data if text else json.loads(data)
        except HTTPError as error:
            raise ConnectionError(f"Kubernetes doesn't answer {method} {path}: {error}") from None
        except ApiException as error:
            status = error.status or 0
            if "absent" in absent and (status == 404 or (text and status == 400)):  # 400: a container not started yet
                return absent["absent"]
            if status == 429 or status >= 500:
                raise ConnectionError(f"Kubernetes answers {method} {path} with {status}: {error.reason}") from None
            refused = ConflictError if status == 409 else EvermodelError
            raise refused(f"Kubernetes refuses {method} {path} ({status}): {_said(error)}") from None


def _said(error: Any) -> str:
    body = error.body.decode() if isinstance(error.body, bytes) else str(error.body or "")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body or str(error.reason)


def print_line(message: str) -> None:
    """To stderr, at once: it is for whoever watches, not the result."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class RetryPolicy:
    """How a wait passes: where it says what it sees, how it sleeps, which clock tells how long it has been."""

    say: Callable[[str], None] = print_line
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    poll: float = POLL_SECONDS
    patience: float = PATIENCE_SECONDS


def retry(ask: Callable[[], Answer], policy: RetryPolicy) -> Answer:
    """Ask a server or a store until there is an answer; EvermodelError once none has come for `policy.patience` seconds."""
    since = policy.clock()
    while True:
        try:
            return ask()
        except OSError as error:  # a ConnectionError is one, and so is what object storage raises
            if policy.clock() - since > policy.patience:
                raise EvermodelError(f"{error}; given up after {policy.patience:.0f} s") from None
            policy.sleep(policy.poll)


def owner_of_this_pod(api: KubernetesApi) -> Manifest | None:
    """The reference to what runs this pod (a Job, a workflow), which outlives it; None outside a pod.

    Not the pod itself: its successor shall find what it started, and what a pod owns goes with it.
    """
    pod = os.environ.get("POD_NAME")
    found = api.get(PODS, pod) if pod else None
    if found is None:
        return None
    owners = found["metadata"].get("ownerReferences", [])
    controller = next((one for one in owners if one.get("controller")), None)
    if controller is None:
        return {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": found["metadata"]["uid"]}
    return {key: controller[key] for key in ("apiVersion", "kind", "name", "uid")}
