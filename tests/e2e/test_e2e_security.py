"""Who reaches whom, who may what, and where secrets are: tried out on the release as it stands, against tables that were
written by hand here, and not read from the chart.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from evermodel import use_case
from evermodel.control.actions import RunLauncher
from evermodel.control.app import create_control
from evermodel.control.auth.session import SESSION_COOKIE, Sessions
from evermodel.control.service import Service
from evermodel.serving.api import create_api
from evermodel.serving.service import PredictionService
from evermodel.workflow import Project
from tests.e2e.cluster import Namespace, name_of, run
from tests.e2e.deployment import CLIENTS, NAMESPACE, RELEASE, Deployment
from tests.e2e.probes import (
    MARK,
    PORT,
    RAY_PORTS,
    Probe,
    api_server,
    component_of,
    doors,
    drawn,
    knock_all,
    of_component,
    running,
    running_probes,
)
from tests.support import ROOT

STORES = ("postgresql", "redis", "gcs-redis", "kafka", "s3")
PROGRAMS = ("control", "ingester", "mlflow", "serving-head", "serving-worker")
RUNS = ("monitoring", "features", "pipeline", "test", "uninstall")  # Jobs: nothing in them listens
COMPONENTS = (*STORES, *PROGRAMS, *RUNS, "training")

#: Who may connect to what; `*`: whatever else listens there. What isn't here is nobody's.
#: `visitor`: the namespace that the values let in. `operator`: a pod with the KubeRay operator's label.
RAY = "serving-head serving-worker"
MAY_REACH = {
    "control:8080": "test",
    "ingester:9100": "",
    "mlflow:5000": "control monitoring pipeline",
    "postgresql:5432": "control ingester monitoring features mlflow pipeline test",
    "redis:6379": "control ingester features pipeline training serving-worker test",
    "gcs-redis:6379": "serving-head",
    "kafka:9092": "ingester pipeline visitor",
    "s3:7070": "control ingester monitoring features mlflow pipeline training serving-worker",
    "serving-worker:8000": f"{RAY} control pipeline test visitor",
    "serving-worker:*": RAY,
    "serving-head:8000": f"{RAY} operator",
    "serving-head:8265": f"{RAY} operator",
    "serving-head:52365": f"{RAY} operator",
    "serving-head:*": RAY,
    "training:8265": "training operator",
    "training:52365": "training operator",
    "training:*": "training",
    "api-server": "control monitoring pipeline uninstall stranger visitor operator",  # the last three aren't the release's
    "stranger": "visitor operator",  # a pod somewhere else: nothing of the release goes there
}

JOBS = {"jobs.batch": "create delete get patch", "pods": "list", "pods/log": "get"}
#: What each ServiceAccount may do in its namespace, beyond what everybody may: RESOURCE, or RESOURCE/NAME, to verbs.
MAY_DO: dict[str, dict[str, str]] = {
    "control": {**JOBS, "rayservices.ray.io evermodel-serving": "get patch watch"},
    "monitoring": JOBS,
    "pipeline": {**JOBS, "pods": "get list", "rayjobs.ray.io": "create delete get patch"},
    "uninstall": {
        "jobs.batch": "delete list",
        "rayclusters.ray.io": "list",
        "rayjobs.ray.io": "delete list",
        "rayservices.ray.io": "delete list",
    },
}
ACCOUNTS = {*STORES, *RUNS, "control", "ingester", "mlflow", "training", "serving", "default"}

#: Where a secret's value may be, besides Secrets and the files that are made of them: (secret, component, place).
#: Ray takes its Redis password in the head's arguments and its token in the environment. The S3 store takes its root keys
#: from its environment only: its shell sets them, for that process alone; the pod's own environment has neither.
MAY_BE_SEEN = {
    ("gcs-redis", "serving-head", "environ"),
    ("gcs-redis", "serving-head", "cmdline"),
    ("ray-token", "serving-head", "environ"),
    ("ray-token", "serving-worker", "environ"),
    ("ray-token", "training", "environ"),
    ("s3-access", "s3", "environ"),
    ("s3-secret", "s3", "environ"),
}
#: Environment that the pods' specs take from Secrets: (component, variable).
FROM_SECRETS = {
    ("serving-head", "REDIS_PASSWORD"),
    ("serving-head", "RAY_AUTH_TOKEN"),
    ("serving-worker", "RAY_AUTH_TOKEN"),
    ("training", "RAY_AUTH_TOKEN"),
}

#: Open to who reaches the port: probes, and what the sign-in page is made of.
OPEN_AT_CONTROL = {"/healthz", "/readyz", "/sign-in", "/style.css", "/icon.svg"}
OPEN_AT_SERVING = {"/healthz", "/readyz"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FILLED = {"use_case": "restaurants", "name": "restaurants", "verb": "retrain"}


# --- who reaches whom ---


@pytest.fixture(scope="module")
def strangers() -> Iterator[Namespace]:
    """A namespace of which nothing in the release knows."""
    space = Namespace(f"{NAMESPACE}-strangers")
    space.create()
    yield space
    run("kubectl", "delete", "namespace", space.name, "--ignore-not-found")


def may_reach(column: str) -> set[str]:
    return set(MAY_REACH.get(column, "").split())


def wrong(matrix: dict[str, dict[str, str]]) -> list[str]:
    """The cells that aren't as the table has them."""
    cells = [(source, column, word) for source, row in matrix.items() for column, word in row.items()]
    return [
        f"{source} → {column}: {word}"
        for source, column, word in cells
        if word not in ("self", "open" if source in may_reach(column) else "shut")
    ]


def test_only_the_allowed_pairs_connect(deployment: Deployment, strangers: Namespace) -> None:
    """Twice at most: a pod's rules follow its start by some seconds."""
    space = deployment.space
    assert {component_of(pod) for pod in running(deployment)} <= set(COMPONENTS)
    inside = [of_component(space, one, ports=RAY_PORTS if one == "training" else (PORT,)) for one in COMPONENTS]
    inside.append(of_component(space, "training", name="training-2", ports=RAY_PORTS))
    outside = [
        Probe("unlabelled", space),
        Probe("visitor", deployment.clients),
        Probe("stranger", strangers),
        Probe("operator", strangers, {"app.kubernetes.io/component": "kuberay-operator"}),
    ]
    probes = [*inside, *outside]
    rows = [probe for probe in probes if probe.name != "training-2"]
    with running_probes(probes, deployment.images["control"]) as own:
        stood_for = [(name, own[name], PORT) for name in RUNS]
        stood_for += [("training", own[name], port) for name in ("training", "training-2") for port in RAY_PORTS]
        for _ in range(2):
            columns = doors(deployment, named=MAY_REACH, more=stood_for)
            columns |= {"api-server": {api_server()}, "stranger": {(own["stranger"], PORT)}}
            matrix = knock_all(rows, own, dict(sorted(columns.items())))
            if not wrong(matrix):
                break
    print(f"\n{drawn(matrix)}")
    assert set(MAY_REACH) <= set(matrix["control"]), f"nothing listens at {set(MAY_REACH) - set(matrix['control'])}"
    assert wrong(matrix) == []


# --- who may what ---


def rules(account: str, *, of: str, where: str) -> dict[str, set[str]]:
    """What `kubectl auth can-i --list` says, as RESOURCE [NAME] or PATH to verbs."""
    text = run("kubectl", "auth", "can-i", "--list", f"--as=system:serviceaccount:{of}:{account}", "-n", where)
    found: dict[str, set[str]] = {}
    for line in text.splitlines()[1:]:
        shaped = re.fullmatch(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]\s*", line)
        assert shaped, f"not a rule: {line!r}"
        resource, path, name, verbs = shaped.groups()
        found.setdefault(f"{resource or path} {name}".strip(), set()).update(verbs.split())
    return found


def beyond(given: dict[str, set[str]], usual: dict[str, set[str]]) -> dict[str, str]:
    extra = {what: verbs - usual.get(what, set()) for what, verbs in given.items()}
    return {what: " ".join(sorted(verbs)) for what, verbs in extra.items() if verbs}


def test_each_account_may_do_what_its_table_says(deployment: Deployment) -> None:
    """And nothing anywhere else. What everybody may is what an account of another namespace may here."""
    space = deployment.space.name
    accounts = {name_of(one).removeprefix(f"{RELEASE}-") for one in deployment.space.list("serviceaccounts")}
    assert accounts == ACCOUNTS
    usual = rules("default", of=CLIENTS, where=space)
    selves = {"selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"}
    assert {what.partition(".")[0] for what in usual if not what.startswith("/")} == selves
    assert {verb for what, verbs in usual.items() if what.startswith("/") for verb in verbs} == {"get"}
    for account in sorted(accounts):
        name = account if account == "default" else f"{RELEASE}-{account}"
        extra = beyond(rules(name, of=space, where=space), usual)
        print(f"{account:12} {extra or '-'}")
        assert extra == MAY_DO.get(account, {}), account
        for elsewhere in ("default", "kube-system", CLIENTS):
            assert beyond(rules(name, of=space, where=elsewhere), usual) == {}, f"{account} in {elsewhere}"


def test_only_who_uses_the_api_has_a_token(deployment: Deployment) -> None:
    pods = deployment.space.pods(f"app.kubernetes.io/instance={RELEASE},!{MARK}")
    holders = {
        component_of(pod)
        for pod in pods
        for volume in pod["spec"].get("volumes", [])
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    }
    assert holders <= {"control", "monitoring", "pipeline", "uninstall"} and "control" in holders


# --- where secrets are ---

KINDS = (
    "pods,deployments,replicasets,statefulsets,jobs,cronjobs,configmaps,services,events,rayservices,rayclusters,rayjobs"
)
PROCESSES = 'cd /proc; for p in [0-9]*; do [ "$p" = "$$" ] || cat "$p/{file}" 2>/dev/null; done; true'


@pytest.fixture(scope="module")
def canaries(deployment: Deployment) -> dict[str, str]:
    """Every secret value by its name; Ray's token, which the operator makes, too."""
    found = dict(deployment.canaries)
    clusters = [name_of(one) for one in deployment.space.list("rayclusters")]
    for number, cluster in enumerate(clusters):
        token = run(
            "kubectl", "-n", deployment.space.name, "get", "secret", cluster, "-o",
            "go-template={{.data.auth_token | base64decode}}",
        )  # fmt: skip
        found["ray-token" if number == 0 else f"ray-token-{number}"] = token
    assert all(len(value) >= 32 for value in found.values()) and "ray-token" in found
    return found


def seen(text: str, canaries: dict[str, str]) -> set[str]:
    return {re.sub(r"^(ray-token)-\d+$", r"\1", name) for name, value in canaries.items() if value in text}


def test_no_object_holds_a_secret(deployment: Deployment, canaries: dict[str, str]) -> None:
    """Specs, values, manifests and notes; a Secret's own contents are what they are for."""
    space = deployment.space
    places = {kind: space.kubectl("get", kind, "-o", "json") for kind in KINDS.split(",")}
    places["helm"] = run("helm", "get", "all", RELEASE, "-n", space.name)
    found = {kind: names for kind, text in places.items() if (names := seen(text, canaries))}
    print(
        f"{len(canaries)} values, {len(places)} kinds of objects, {sum(map(len, places.values())):,} characters: {found}"
    )
    assert found == {}
    specs = [pod for pod in space.pods(f"app.kubernetes.io/instance={RELEASE},!{MARK}")]
    containers = [(component_of(pod), one) for pod in specs for kind in ("initContainers", "containers")
                  for one in pod["spec"].get(kind, [])]  # fmt: skip
    assert not [each for _, one in containers for each in one.get("envFrom", []) if "secretRef" in each]
    taken = {(component, env["name"]) for component, one in containers for env in one.get("env", [])
             if "secretKeyRef" in env.get("valueFrom", {})}  # fmt: skip
    assert taken <= FROM_SECRETS and ("serving-head", "REDIS_PASSWORD") in taken


def test_no_process_or_log_holds_a_secret(deployment: Deployment, canaries: dict[str, str]) -> None:
    """The environment and arguments of every process that the container's user can look at, and what was ever logged."""
    space, found, read = deployment.space, set(), 0
    for pod in running(deployment):
        for container in pod["spec"]["containers"]:
            for file in ("environ", "cmdline"):
                text = space.exec(name_of(pod), "sh", "-c", PROCESSES.format(file=file), container=container["name"])
                assert text, f"no {file} of {name_of(pod)} could be read"
                found |= {(name, component_of(pod), file) for name in seen(text, canaries)}
                read += len(text)
    print(f"{read:,} characters of processes: {sorted(found)}")
    assert found <= MAY_BE_SEEN
    assert found >= {one for one in MAY_BE_SEEN if one[1] != "training"}, "what must be there wasn't seen: look again"
    logs = {name_of(pod): space.logs(name_of(pod), "--tail=-1") for pod in space.pods(f"!{MARK}")}
    logs |= {f"{name} before": space.logs(name, "--tail=-1", "--previous") for name in list(logs)}
    heads = [pod for pod in running(deployment) if component_of(pod) in ("serving-head", "serving-worker")]
    for pod in heads:
        own = ("sh", "-c", "find /tmp/ray/session_latest/logs -type f -exec cat {} +")
        logs[f"{name_of(pod)} of Ray"] = space.exec(name_of(pod), *own)
    hits = {name: names for name, text in logs.items() if (names := seen(text, canaries))}
    print(f"{len(logs)} logs, {sum(map(len, logs.values())):,} characters: {hits}")
    assert hits == {} and any("control" in name and text for name, text in logs.items())


# --- who is let in ---


def now() -> datetime:
    return datetime.now(UTC)


def routes_of(app: Any) -> set[str]:
    """Every path of an app, its parameters filled in; `FILLED` has to know them."""
    return {route.path.format(**FILLED) for route in app.routes}


def control_routes() -> set[str]:
    service = Service(Project.open(ROOT), now)
    sessions = Sessions(secrets.token_bytes(32), clock=now)
    return routes_of(create_control(service, sessions=sessions, launcher=RunLauncher(service)))


def serving_routes() -> set[str]:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is asked here")

    service = PredictionService({"restaurants": use_case.load(ROOT / "use_cases" / "restaurants.yaml")}, never, {})
    try:
        return routes_of(create_api(service, ready=never, clock=now))
    finally:
        service.close()


@pytest.fixture(scope="module")
def foreign(deployment: Deployment) -> dict[str, str | None]:
    """Authorization headers that are nobody's, at control or serving."""
    account = run("kubectl", "-n", CLIENTS, "create", "token", "default").strip()
    return {
        "without": None,
        "empty": "Bearer",
        "wrong": f"Bearer {secrets.token_hex(16)}",
        "another kind": f"Basic {secrets.token_hex(16)}",
        "another namespace's account": f"Bearer {account}",
        "own namespace's account": "Bearer "
        + deployment.space.kubectl("create", "token", f"{RELEASE}-serving").strip(),
    }


def refusals(url: str, paths: set[str], credentials: dict[str, str | None]) -> tuple[int, list[str]]:
    """How often it was tried, and what wasn't refused: each path with each method and each credential, as a program's
    header and as a browser's session."""
    tried, let_in = 0, []
    with httpx.Client(base_url=url, timeout=30) as client:
        for path in sorted(paths):
            for method in METHODS:
                for name, header in credentials.items():
                    headers = {"content-type": "application/json"}
                    if header is not None:
                        headers |= {"authorization": header, "cookie": f"{SESSION_COOKIE}={header.partition(' ')[2]}.0"}
                    body = None if method in ("GET", "HEAD") else b"{}"
                    bare = {key: value for key, value in headers.items() if key != "content-type"}
                    for how, sent, said in (("", headers, body), (" without a body", bare, None)):
                        status = client.request(method, path, headers=sent, content=said).status_code
                        tried += 1
                        if status not in (401, 403):
                            let_in.append(f"{method} {path} {name}{how}: {status}")
    return tried, let_in


def test_control_lets_nobody_in_who_is_not_its_own(deployment: Deployment, foreign: dict[str, str | None]) -> None:
    """Serving's callers neither, nor a sign-in with anybody's token."""
    credentials = {**foreign, "serving's caller": f"Bearer {deployment.tokens['caller']}"}
    paths = {"/nowhere", "/metrics/", "/api/v1/nowhere/retrain"} | control_routes()
    assert paths >= OPEN_AT_CONTROL | {"/", "/metrics", "/api/v1/alertmanager", "/api/v1/restaurants/promote"}
    with deployment.space.forward(f"svc/{RELEASE}-control", 8080) as url:
        tried, let_in = refusals(url, paths - OPEN_AT_CONTROL, credentials)
        print(f"control: {tried} requests at {len(paths - OPEN_AT_CONTROL)} paths, {len(let_in)} not refused")
        assert let_in == []
        own = {"authorization": f"Bearer {deployment.tokens['viewer']}"}
        assert httpx.get(f"{url}/api/v1/use-cases", headers=own, timeout=30).status_code == 200
        statuses = {name: sign_in(url, (header or "").partition(" ")[2]) for name, header in credentials.items()}
        assert set(statuses.values()) == {401}, statuses
        assert sign_in(url, deployment.tokens["alertmanager"]) == 403
        assert sign_in(url, deployment.tokens["viewer"]) == 303


def sign_in(url: str, token: str) -> int:
    """As a browser does it: the page's own form, sent back with a token."""
    with httpx.Client(base_url=url, timeout=30) as browser:
        shown = browser.get("/sign-in", headers={"accept": "text/html"}).text
        fields = dict(re.findall(r'name="(csrf)"[^>]*value="([^"]*)"', shown))
        assert fields["csrf"]
        return browser.post("/sign-in", data={**fields, "token": token}).status_code


def test_serving_lets_nobody_in_who_is_not_its_own(deployment: Deployment, foreign: dict[str, str | None]) -> None:
    """The control service's people neither: its tokens are others."""
    tokens = deployment.tokens
    credentials = {
        **foreign,
        **{f"control's {one}": f"Bearer {tokens[one]}" for one in ("admin", "viewer", "alertmanager")},
    }
    paths = {"/", "/nowhere", "/metrics/", "/v1/nowhere/rank"} | serving_routes()
    assert paths >= OPEN_AT_SERVING | {"/metrics", "/openapi.json", "/v1/restaurants/rank", "/v1/restaurants/predict"}
    with deployment.space.forward(f"svc/{deployment.serving_service}", 8000) as url:
        tried, let_in = refusals(url, paths - OPEN_AT_SERVING, credentials)
        print(f"serving: {tried} requests at {len(paths - OPEN_AT_SERVING)} paths, {len(let_in)} not refused")
        assert let_in == []
        caller, service = ({"authorization": f"Bearer {tokens[one]}"} for one in ("caller", "service"))
        body = deployment.example()
        assert httpx.post(f"{url}/v1/restaurants/rank", headers=caller, json=body, timeout=30).status_code == 200
        assert httpx.post(f"{url}/v1/restaurants/rank", headers=service, json=body, timeout=30).status_code == 403
        assert httpx.get(f"{url}/metrics", headers=caller, timeout=30).status_code == 403
        said = httpx.get(f"{url}/readyz", timeout=30).json()
        assert set(said) == {"ready"}, f"without a token it says more than that: {said}"
