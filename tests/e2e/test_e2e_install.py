"""From an empty namespace to answers: every pod ready under the restricted standard, on two nodes, and what helm says of it."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.cluster import helm, name_of, names, node_of, run
from tests.e2e.deployment import RELEASE, SERVING_HEAD, SERVING_WORKER, Deployment
from tests.e2e.load_client import LoadClient


def test_every_pod_is_ready_and_restricted(deployment: Deployment) -> None:
    assert deployment.space.not_ready() == []
    labels = deployment.space.get("namespace", deployment.space.name)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_serving_is_on_two_nodes_and_not_on_the_head(deployment: Deployment) -> None:
    workers, heads = deployment.space.ready_pods(SERVING_WORKER), deployment.space.ready_pods(SERVING_HEAD)
    assert len({node_of(pod) for pod in workers}) == 2 and len(heads) == 1
    assert deployment.endpoints() == sorted(pod["status"]["podIP"] for pod in workers)


def test_each_pod_asks_its_own_models(deployment: Deployment) -> None:
    """No request crosses to another node and back while there are models where it came in."""
    asked = []
    for pod in deployment.space.ready_pods(SERVING_WORKER):
        with deployment.space.forward(f"pod/{name_of(pod)}", 8000) as url:
            said = [
                run("curl", "-s", "-H", f"authorization: Bearer {deployment.tokens['caller']}", f"{url}/readyz")
                for _ in range(12)
            ]
        asked.append({json.loads(one)["replica"] for one in said})
    assert [len(replicas) for replicas in asked] == [1, 1] and asked[0] != asked[1]


def test_it_answers(deployment: Deployment) -> None:
    """Before the first champion, and after: what can't be scored is answered by the fallback, and says so."""
    with deployment.space.forward(f"svc/{deployment.serving_service}", 8000) as url:
        said = run("curl", "-s", f"{url}/healthz")
        body = json.dumps(deployment.example())
        answer = json.loads(
            run("curl", "-s", "-H", f"authorization: Bearer {deployment.tokens['caller']}",
                "-H", "content-type: application/json", "-d", body, f"{url}/v1/restaurants/rank")
        )  # fmt: skip
    assert "ok" in said and len(answer["ranking"]) > 1
    assert answer["fallback"] == (answer["release"] is None)


def test_helm_test_is_green(deployment: Deployment) -> None:
    assert "Succeeded" in helm("test", RELEASE, "-n", deployment.space.name, "--timeout", "5m")


@pytest.mark.usefixtures("champion")
def test_upgrade_and_rollback_fail_no_request(deployment: Deployment, load_client: LoadClient) -> None:
    """N−1 → N → N−1, where N changes every pod of ours: other environments, so other templates."""
    champion = deployment.champion()
    values = deployment.values()
    for part in ("control", "serving", "ingester", "mlflow"):
        values[part] = {**values[part], "env": {"E2E_VERSION": "2"}}
    deployment.wait_ready()
    with load_client.load(rate=10, seconds=900) as found:
        took = []
        for step in (
            lambda: deployment.install(values=values),
            lambda: helm("rollback", RELEASE, "-n", deployment.space.name, "--timeout", "10m"),
        ):
            began, before = time.monotonic(), serving_clusters(deployment)
            step()
            while serving_clusters(deployment) == before:
                time.sleep(1)
            deployment.wait_ready()
            took.append(round(time.monotonic() - began))
            time.sleep(5)
    print(f"\nupgrade {took[0]} s, rollback {took[1]} s; {found}")
    assert found.result["failed"] == 0 and found.result["sent"] > 100
    assert deployment.live() == {champion}


def serving_clusters(deployment: Deployment) -> list[str]:
    return names(deployment.space.list("rayclusters", f"ray.io/originated-from-cr-name={RELEASE}-serving"))


LEFT = {"postgresql", "redis", "kafka", "s3"}  # whose volumes stay: `persistence.whenDeleted: Retain`
CLUSTERS_OWN = ("configmap/kube-root-ca.crt", "serviceaccount/default", "event", "lease.coordination")


@pytest.mark.last
def test_uninstall_leaves_what_it_says(deployment: Deployment) -> None:
    """Secrets are the administrator's, volumes with data are kept; nothing else is there."""
    began = time.monotonic()
    helm("uninstall", RELEASE, "-n", deployment.space.name, "--wait", "--timeout", "5m")
    deployment.uninstalled = True
    print(f"\nuninstalled after {time.monotonic() - began:.0f} s")
    kinds = run("kubectl", "api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    for _ in range(60):  # what the operator owns goes in the background
        found = deployment.space.kubectl("get", ",".join(kinds), "-o", "name", "--ignore-not-found").split()
        found = [one for one in found if not one.startswith(CLUSTERS_OWN)]
        if all(one.startswith(("secret/", "persistentvolumeclaim/")) for one in found):
            break
        time.sleep(1)
    secrets = {one for one in found if one.startswith("secret/")}
    assert all(one.startswith("secret/evermodel-") for one in secrets) and len(secrets) == len(deployment.secrets)
    volumes = set(found) - secrets
    assert volumes == {f"persistentvolumeclaim/data-{RELEASE}-{name}-0" for name in LEFT}, volumes
