"""JSON Schemas for kubeconform, written where nothing has to be fetched: Kubernetes' own kinds from the package
kubernetes-validate, custom ones from the CRDs of a folder (KUBERAY_CRDS) or of the cluster that KUBECONFIG names."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

VERSION = "1.34"
PREFIX = "/api/_definitions.json#/$defs/"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # CRDs of Ray are long
Schema = dict[str, Any]


def core_schemas() -> Path | None:
    """The folder of Kubernetes' strict schemas; None where the package isn't installed."""
    found = importlib.util.find_spec("kubernetes_validate")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"


@cache
def crds() -> tuple[list[Schema], str]:
    """The CRDs that can be had, and where they are from (or why there are none)."""
    if folder := os.environ.get("KUBERAY_CRDS"):
        texts = [path.read_text() for path in sorted(Path(folder).glob("*.yaml"))]
        return [one for text in texts for one in yaml.load_all(text, Loader=LOADER) if one], f"KUBERAY_CRDS={folder}"
    if os.environ.get("KUBECONFIG") and shutil.which("kubectl"):
        words = ["kubectl", "get", "crd", "-o", "json", "--request-timeout=5s"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        if said.returncode == 0:
            return json.loads(said.stdout)["items"], "the cluster of KUBECONFIG"
        return [], f"KUBECONFIG is set, but its cluster doesn't answer: {said.stderr.strip()[:200]}"
    return [], "neither KUBERAY_CRDS (a folder of CRDs as YAML) nor KUBECONFIG is set"


def write(folder: Path, kinds: Iterable[tuple[str, str]]) -> list[str]:
    """Write the schema of each (apiVersion, kind) that has one, as KIND-GROUP-VERSION.json; the kinds without."""
    core, custom = core_schemas(), _custom()
    definitions = _definitions(core) if core else {}
    missing = []
    for api, kind in kinds:
        name = f"{kind.lower()}-{_suffix(api)}.json"
        if core and (core / name).is_file():
            schema = _whole(json.loads((core / name).read_text()), definitions)
        elif (api, kind) in custom:
            schema = custom[api, kind]
        else:
            missing.append(kind)
            continue
        (folder / name).write_text(json.dumps(schema))
    return missing


def _suffix(api: str) -> str:
    """As kubeconform names it: `apps/v1` is apps-v1, `ray.io/v1` ray-v1, `v1` v1."""
    group, _, version = api.rpartition("/")
    return f"{group.split('.')[0]}-{version}" if group else version


def _whole(schema: Schema, definitions: Schema) -> Schema:
    """With the definitions that it refers to inside of it."""
    inside: Schema = {}
    waiting = set(_references(schema))
    while waiting:
        name = waiting.pop()
        inside[name] = definitions[name]
        waiting |= {other for other in _references(definitions[name]) if other not in inside}
    text = json.dumps({**schema, "$defs": inside}).replace(PREFIX, "#/$defs/")
    whole: Schema = json.loads(text)
    whole.pop("$id", None)
    return whole


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(found := value.get("$ref"), str):
            yield found.rpartition("/")[2]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@cache
def _definitions(core: Path) -> Schema:
    found: Schema = json.loads((core / "_definitions.json").read_text())["$defs"]
    return found


@cache
def _custom() -> dict[tuple[str, str], Schema]:
    found = {}
    for one in crds()[0]:
        spec = one["spec"]
        for version in spec["versions"]:
            key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[key] = strict(version["schema"]["openAPIV3Schema"])
    return found


def strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema, which refuses what the API server would drop: keys that it doesn't name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "nullable"}
    for key in ("properties", "patternProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = {name: strict(inner) for name, inner in schema[key].items()}
    for key in ("items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"):
        if key in schema:
            made[key] = strict(schema[key])
    named = isinstance(schema.get("properties"), dict)
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    made.pop("default", None)
    return made
