"""The chart, in each of its values files: it renders, the API server would take it, and every pod is as strict as promised.

Nothing here asks a cluster for more than its CRDs. Skipped where helm, kubeconform or helm-unittest isn't installed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import kube_schemas as schemas
from tests.manifests.rendering import (
    CASES,
    CHART,
    LASTING,
    MINIMAL,
    Object,
    helm,
    of_kind,
    pods,
    program,
    refusal,
    rendered,
    run,
    templates,
    walk,
)
from tests.support import ROOT

SECRETS = ("control", "serving", "gcsRedis", "postgresql", "redis", "s3")
API_USERS = {"control", "monitoring", "pipeline", "uninstall"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
OWN_SCHEMA = ("HTTPRoute", "ServiceMonitor", "PrometheusRule")  # whose CRDs few clusters of tests have

pytestmark = pytest.mark.skipif(not program("helm"), reason="helm is not installed")
OFF_THE_PATH = {"standby-proxy"}  # a container that nothing reaches while its pod is well
cases = pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)


# it renders, and what it should not take it refuses -------------------------------------------------------------------


@cases
def test_lint_is_clean(values: Path) -> None:
    said = helm("lint", "--strict", CHART, "-f", values)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("key", SECRETS)
def test_no_rendering_without_a_secret(key: str) -> None:
    assert f"{key}.existingSecret is needed" in refusal("--set", f"{key}.existingSecret=")


@pytest.mark.parametrize("image", ["control", "ray"])
def test_no_rendering_without_the_images_digest_or_tag(image: str) -> None:
    assert f"images.{image}.digest is needed" in refusal("--set", f"images.{image}.digest=")
    assert "/images/ray/tag" in refusal("--set", "images.ray.digest=,images.ray.tag=latest")


@pytest.mark.parametrize(
    "key",
    [
        "servin",
        "serving.worker.resource",
        "networkPolicy.ingress.servin",
        "training.workerGroups[0].gpu",
        "s3.internal.on",
    ],
)
def test_an_unknown_key_is_refused_by_name(key: str) -> None:
    last = key.rpartition(".")[2]
    assert f"additional properties '{last}' not allowed" in refusal("--set", f"{key}=1")


@pytest.mark.parametrize(
    "wrong",
    ["serving.replicas=0", "project.launcher=local", "networkPolicy.dns[0].host=x", "metrics.serviceMonitor.enabled=maybe",
     "redis.external.url=redis://:word@host", "images.ray.digest=sha256:12"],
)  # fmt: skip
def test_a_wrong_value_is_refused(wrong: str) -> None:
    assert "don't meet the specifications" in refusal("--set", wrong)


def test_the_schema_knows_exactly_the_keys_of_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    open_maps = {
        path
        for path, one in walk(schema)
        if one.get("type") == "object" and one.get("additionalProperties") is not False
    }
    assert {path.rpartition(".")[2] for path in open_maps} == {
        "quantities", "texts", "environment", "items", "useCases", "profile", "schedules", "args", "global",
    }  # fmt: skip

    def compare(said: dict[str, Any], known: dict[str, Any], path: str) -> None:
        assert set(said) == set(known) - {"global"}, path
        for key, value in said.items():
            assert known[key].get("description"), f"{path}.{key} has no description"
            if "properties" in known[key]:
                compare(value, known[key]["properties"], f"{path}.{key}")

    compare(values, schema["properties"], "")


@cases
def test_the_api_server_would_take_it(values: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = (*rendered(values), *templates(rendered(values)))
    _conform(objects, tmp_path, capsys)


def test_the_api_server_would_take_what_an_administrator_applies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [path for path in sorted((ROOT / "k8s").glob("*.yaml")) if path.name != "kind.yaml"]
    objects = [one for path in files for one in yaml.safe_load_all(path.read_text())]
    assert len(objects) == 5
    _conform(tuple(objects), tmp_path, capsys)


def _conform(objects: tuple[Object, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not program("kubeconform"):
        pytest.skip("kubeconform is not installed")
    if schemas.core_schemas() is None:
        pytest.skip("the package kubernetes-validate, which holds Kubernetes' schemas, is not installed")
    missing = schemas.write(folder, sorted({(one["apiVersion"], one["kind"]) for one in objects}))
    ray = [kind for kind in missing if kind not in OWN_SCHEMA]
    if missing:
        with capsys.disabled():
            print(f"\nnot checked against a schema: {', '.join(missing)} ({schemas.crds()[1]})")
    assert set(ray) <= {"RayService", "RayJob"}
    (folder / "all.yaml").write_text(yaml.safe_dump_all(objects))
    said = run(
        "kubeconform", "-strict", "-summary", "-output", "json", "-skip", ",".join(missing), "-schema-location",
        f"{folder}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json", folder / "all.yaml",
    )  # fmt: skip
    found = json.loads(said.stdout)
    assert (said.returncode, found.get("resources", [])) == (0, [])
    assert found["summary"]["valid"] == sum(one["kind"] not in missing for one in objects)


def test_a_wrong_field_of_ray_would_be_seen(tmp_path: Path) -> None:
    """What holds `test_the_api_server_would_take_it` up: the converted schemas refuse what they don't know."""
    found, where = schemas.crds()
    if not found:
        pytest.skip(f"no CRDs: {where}")
    if not program("kubeconform") or schemas.core_schemas() is None:
        pytest.skip("kubeconform or kubernetes-validate is not installed")
    service = json.loads(json.dumps(of_kind("RayService", rendered(MINIMAL))[0]))
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    schemas.write(tmp_path, [("ray.io/v1", "RayService")])
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(service))
    location = f"{tmp_path}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    said = run("kubeconform", "-strict", "-schema-location", location, tmp_path / "one.yaml")
    assert said.returncode == 1 and "imag" in said.stdout


def test_the_charts_own_tests_pass() -> None:
    if program("helm-unittest"):
        said = run("helm-unittest", CHART)
    elif "unittest" in helm("plugin", "list").stdout:
        said = helm("unittest", CHART)
    else:
        pytest.skip("helm-unittest is not installed")
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_readme_is_what_helm_docs_makes() -> None:
    if not program("helm-docs"):
        pytest.skip("helm-docs is not installed")
    said = run(
        "helm-docs", "--chart-search-root", CHART, "--sort-values-order", "file", "--dry-run", "--log-level", "error"
    )
    assert said.stdout.strip() == (CHART / "README.md").read_text().strip()


# every pod ------------------------------------------------------------------------------------------------------------


@cases
def test_every_pod_passes_restricted_pod_security(values: Path) -> None:
    wrong = []
    for pod in pods(rendered(values)):
        context = pod.spec.get("securityContext") or {}
        checks = {
            "runAsNonRoot": context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0,
            "seccomp": (context.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost"),
            "host": not any(pod.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "volumes": all((one.keys() - {"name"}) <= VOLUMES for one in pod.spec.get("volumes") or ()),
            "sizes": all("sizeLimit" in one["emptyDir"] for one in pod.spec.get("volumes") or () if "emptyDir" in one),
        }
        wrong += [f"{pod.owner}: {name}" for name, good in checks.items() if not good]
        for name, container in pod.containers():
            inner = container.get("securityContext") or {}
            fine = (
                inner.get("allowPrivilegeEscalation") is False
                and inner.get("readOnlyRootFilesystem") is True
                and inner.get("capabilities") == {"drop": ["ALL"]}
                and not inner.get("privileged")
                and not any("hostPort" in port for port in container.get("ports") or ())
            )
            wrong += [] if fine else [f"{name}: {inner}"]
    assert wrong == []


@cases
def test_every_container_has_resources_and_an_image_by_digest_or_tag(values: Path) -> None:
    for pod in pods(rendered(values)):
        for name, container in pod.containers():
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys() and "memory" in resources["limits"], name
            image = container["image"]
            _, _, tag = image.rpartition("/")[2].partition(":")
            assert "@sha256:" in image or (tag and tag != "latest"), name


@cases
def test_what_runs_on_has_probes_and_leaves_bad_nodes(values: Path) -> None:
    for pod in pods(rendered(values)):
        leaves = {one["key"] for one in pod.spec["tolerations"] if one.get("tolerationSeconds", 99) <= 30}
        assert {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} <= leaves, pod.owner
        if pod.kind in LASTING:
            for container in pod.spec["containers"]:
                if container["name"] not in OFF_THE_PATH:
                    assert {"livenessProbe", "readinessProbe"} <= container.keys(), pod.owner
        else:
            assert pod.spec["restartPolicy"] in ("Never", "OnFailure"), pod.owner


@cases
def test_a_secret_is_never_in_an_environment_but_for_the_gcs_password(values: Path) -> None:
    objects = (*rendered(values), *templates(rendered(values)))
    found = [
        (one["kind"], path)
        for one in objects
        for path, inner in walk(one)
        if {"secretKeyRef", "secretRef"} & inner.keys()
    ]
    password = ".spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword.valueFrom"
    assert found == [("RayService", password)]
    for one in objects:
        assert one["kind"] != "Secret"
    for pod in pods(rendered(values)):
        for volume in pod.spec.get("volumes") or ():
            assert volume.get("secret", {"defaultMode": 0o440})["defaultMode"] == 0o440, (
                f"{pod.owner}: {volume['name']}"
            )


# who may do what ------------------------------------------------------------------------------------------------------


@cases
def test_one_service_account_a_component_and_a_token_only_where_the_api_is_used(values: Path) -> None:
    objects = rendered(values)
    accounts = {one["metadata"]["name"]: one for one in of_kind("ServiceAccount", objects)}
    assert not any(one["automountServiceAccountToken"] for one in accounts.values())
    users: dict[str, set[str]] = {}
    for pod in pods(objects):
        users.setdefault(pod.spec["serviceAccountName"], set()).add(pod.component.partition("-")[0])
        scaling = pod.kind == "RayJob" and "initContainers" in pod.spec  # Ray's autoscaler
        assert pod.spec["automountServiceAccountToken"] is (pod.component in API_USERS or scaling), pod.owner
    assert users.keys() == accounts.keys()
    assert all(len(components) == 1 for components in users.values()), users


@cases
def test_a_role_names_what_it_grants(values: Path) -> None:
    roles = of_kind("Role", rendered(values))
    assert roles and not of_kind("ClusterRole", rendered(values))
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"secrets", "pods/exec", "roles"} & {*rule["resources"]}, role["metadata"]["name"]


@cases
def test_everything_is_denied_but_what_each_components_policy_names(values: Path) -> None:
    objects = rendered(values)
    policies = [one["spec"] for one in of_kind("NetworkPolicy", objects)]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    own = [one for one in policies if one["podSelector"]]
    for pod in pods(objects):
        fitting = [one for one in own if one["podSelector"]["matchLabels"].items() <= pod.labels.items()]
        assert len(fitting) == 1 and set(fitting[0]["policyTypes"]) == {"Ingress", "Egress"}, pod.owner
    for policy in own:
        for rule in (*(policy.get("ingress") or ()), *(policy.get("egress") or ())):
            assert rule.get("from") or rule.get("to"), "a rule without peers lets everybody in"


@cases
def test_a_deployer_of_the_namespace_may_do_what_the_chart_asks(values: Path) -> None:
    """Each kind can be made and removed, and no Role of the chart grants what its maker doesn't have."""
    deployer = next(iter(yaml.safe_load_all((ROOT / "k8s" / "rbac.yaml").read_text())))
    has = {(group, resource, verb) for rule in deployer["rules"] for group in rule["apiGroups"]
           for resource in rule["resources"] for verb in rule["verbs"]}  # fmt: skip
    wanted = set()
    for one in rendered(values):
        group, kind = one["apiVersion"].rpartition("/")[0], one["kind"].lower()
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}es" if kind.endswith("s") else f"{kind}s"
        wanted |= {(group, plural, verb) for verb in ("get", "list", "create", "patch", "delete")}
        for rule in one.get("rules") or ():
            wanted |= {
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    assert wanted - has == set()


# what is watched ------------------------------------------------------------------------------------------------------


def exported() -> set[str]:
    """Every figure that our own /metrics have, as Prometheus names it."""
    places = ("control/metrics.py", "serving/service.py")
    names = {
        name
        for place in places
        for name in re.findall(r'"(evermodel_\w+)"', (ROOT / "src/evermodel" / place).read_text())
    }
    return {name + end for name in names for end in ("", "_total", "_bucket")}


def rules() -> list[Object]:
    groups = of_kind("PrometheusRule", rendered(CHART / "ci" / "full-values.yaml"))[0]["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_counts_on_figures_that_are_there_and_has_a_runbook() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.S | re.M))
    assert [*sections] == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks.md#{rule['alert'].lower()}")
        assert set(re.findall(r"evermodel_\w+", rule["expr"])) <= exported(), rule["alert"]
        for word in ("**Meaning.**", "**Look.**", "**Act.**"):
            assert word in sections[rule["alert"]], rule["alert"]


def test_dashboards_show_figures_that_are_there() -> None:
    boards = [json.loads(path.read_text()) for path in sorted((CHART / "files" / "dashboards").glob("*.json"))]
    assert len({board["uid"] for board in boards}) == len(boards) > 0
    for board in boards:
        expressions = [one["expr"] for panel in board["panels"] for one in panel["targets"]]
        assert {name for one in expressions for name in re.findall(r"evermodel_\w+", one)} <= exported()
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_objects_are_there_where_its_operator_and_a_token_are() -> None:
    api = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")
    token = ("--set", "metrics.serviceMonitor.tokenSecret.name=it")
    assert not of_kind("ServiceMonitor", rendered(MINIMAL)) and not of_kind("PrometheusRule", rendered(MINIMAL))
    assert not of_kind("ServiceMonitor", rendered(MINIMAL, *api))
    found = rendered(MINIMAL, *api, *token)
    assert len(of_kind("ServiceMonitor", found)) == 3 and len(of_kind("PrometheusRule", found)) == 1
    assert "tokenSecret.name is needed" in refusal("--set", "metrics.serviceMonitor.enabled=true")


def test_with_kubeflow_pipelines_the_steps_have_what_the_chart_has() -> None:
    """The platform file that the chart renders is one that the pipelines are compiled with, and names what is there."""
    from evermodel.execution.kubeflow.platform import Platform

    objects = rendered(CHART / "ci" / "full-values.yaml")
    (text,) = [one["data"]["platform.yaml"] for one in objects if "platform.yaml" in one.get("data", {})]
    platform = Platform.model_validate(yaml.safe_load(text))
    made = {one["metadata"]["name"] for one in objects if one["kind"] in ("ConfigMap", "ServiceAccount")}
    assert {mount.name for mount in platform.config_maps} | {str(platform.service_account)} <= made
    secrets = {mount.path.rpartition("/")[2] for mount in platform.secrets}
    assert secrets == {"postgresql", "redis", "s3"}
    (control,) = [pod for pod in pods(objects) if pod.owner.endswith("-control")]
    variables = {one["name"]: one.get("value") for one in control.spec["containers"][0]["env"]}
    assert (
        variables["EVERMODEL_PLATFORM"] == "/etc/evermodel/project/platform.yaml"
        and "@sha256" in variables["EVERMODEL_IMAGE"]
    )
