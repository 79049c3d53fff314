"""The part of the Kubernetes API that a launcher needs: apply, merge, read, delete, list, logs.

The only module that imports the kubernetes client. It uses paths and plain dicts, because the client has no class for a
custom resource: the manifest is sent as it is. A server that doesn't answer, or answers 429 or 5xx, is a
ConnectionError, which `retry` repeats; any other refusal is an EvermodelError that names the request.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from evermodel import storage
from evermodel.errors import ConflictError, EvermodelError
from evermodel.execution.retry import RetryPolicy, poll, retry

Manifest = dict[str, Any]
FIELD_MANAGER = "evermodel"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TIMEOUT = (5, 30)  # seconds to connect, to read


@dataclass(frozen=True)
class Kind:
    """A kind of resource by its API path and plural name."""

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
        """Connect by KUBECONFIG if it is set, else by the pod's ServiceAccount; EvermodelError if there is neither."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise EvermodelError("the launcher needs the kubernetes client: pip install 'evermodel[k8s]'") from None
        settings = client.Configuration()
        settings.retries = 0  # `retry` does it, and reports it
        inside = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        try:
            if inside:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
        except config.ConfigException as error:
            raise EvermodelError(f"no Kubernetes to connect to: {error}") from None
        if namespace is None:
            namespace = storage.read_text(f"{SERVICE_ACCOUNT}/namespace").strip() if inside else "default"
        return cls(client.ApiClient(settings), namespace)

    def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create the object, or change it to this manifest (server-side apply); the object as stored."""
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        name = manifest["metadata"]["name"]
        applied = self._request("PATCH", kind, name, query=query, body=manifest, content="application/apply-patch+yaml")
        return dict(applied)

    def merge(self, kind: Kind, name: str, patch: Manifest) -> None:
        """Change the fields of the patch; ConflictError if its resourceVersion isn't the object's current one."""
        self._request("PATCH", kind, name, body=patch, content="application/merge-patch+json")

    def get(self, kind: Kind, name: str) -> Manifest | None:
        """The object, or None if there is none of that name."""
        found = self._request("GET", kind, name, absent=None)
        return dict(found) if found is not None else None

    def delete(self, kind: Kind, name: str) -> None:
        """Request the deletion of the object and of what it owns; nothing happens if it isn't there."""
        self._request("DELETE", kind, name, query=[("propagationPolicy", "Background")], absent=None)

    def pods(self, selector: str) -> list[Manifest]:
        """The pods with these labels, oldest first."""
        found = self._request("GET", PODS, query=[("labelSelector", selector)])
        return sorted(found["items"], key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))

    def log(self, pod: str) -> str:
        """The output of a pod; empty if it has printed nothing yet or is gone."""
        return str(self._request("GET", PODS, f"{pod}/log", absent="", text=True))

    def _request(
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
            raise refused(f"Kubernetes refuses {method} {path} ({status}): {_message(error)}") from None


def _message(error: Any) -> str:
    """The server's own message in an ApiException."""
    body = error.body.decode() if isinstance(error.body, bytes) else str(error.body or "")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body or str(error.reason)


def delete_and_wait(api: KubernetesApi, kind: Kind, name: str, policy: RetryPolicy) -> None:
    """Delete an object and wait until it is gone; EvermodelError if a finalizer keeps it longer than the patience."""
    retry(lambda: api.delete(kind, name), policy)
    left = poll(
        lambda: retry(lambda: api.get(kind, name), policy),
        lambda found: found is None,
        policy,
        limit_seconds=policy.patience_seconds,
    )
    if left is not None:
        raise EvermodelError(f"{kind.plural} {name} was deleted and is still there: look at its finalizers")


def owner_of_this_pod(api: KubernetesApi) -> Manifest | None:
    """The owner reference to the controller of this pod (a Job, a workflow); None outside a pod.

    The pod itself is the owner only if it has no controller: what a pod owns is deleted with it, and the pod that
    replaces it must find what it started.
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
