"""From an empty namespace to answers: every pod ready under the restricted standard, on two nodes, and what helm says of it."""

from __future__ import annotations

import json

from cluster import helm, node_of, run
from deployment import RELEASE, Deployment

HEAD, WORKERS = "app.kubernetes.io/component=serving-head", "app.kubernetes.io/component=serving-worker"


def test_every_pod_is_ready_and_restricted(deployment: Deployment) -> None:
    assert deployment.space.not_ready() == []
    labels = deployment.space.get("namespace", deployment.space.name)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_serving_is_on_two_nodes_and_not_on_the_head(deployment: Deployment) -> None:
    workers, heads = deployment.space.ready_pods(WORKERS), deployment.space.ready_pods(HEAD)
    assert len({node_of(pod) for pod in workers}) == 2 and len(heads) == 1
    assert deployment.endpoints() == sorted(pod["status"]["podIP"] for pod in workers)


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
