"""Reads a `UseCase` from text. An error states the file, the line, the path, the value and the nearest valid name.

The sections' own checks find the valid names. This module finds the line and the path in the YAML tree.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from evermodel import storage
from evermodel.errors import UseCaseError
from evermodel.use_case.case import UseCase
from evermodel.use_case.features import FEATURE_KINDS

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster, if libyaml is installed
_PATH = re.compile(r"^([a-z_]+(?:\.\w+)*)[ :']")
_UNKNOWN_KEY = re.compile(r"unknown key '([^']+)'")


def load(path: str | Path) -> UseCase:
    """Read a use-case file (path or URI). UseCaseError with file, line, path, value and the nearest valid name."""
    if not storage.exists(path):
        raise UseCaseError(f"{path}: no such use-case file")
    return parse(storage.read_text(path), name=str(path))


def parse(text: str, *, name: str = "use case") -> UseCase:
    """Read the text of a use-case file; errors begin with `name`."""
    loader = _Loader(text)
    try:
        tree = loader.get_single_node()
        values = loader.construct_document(tree) if tree is not None else None
    except yaml.YAMLError as error:
        raise UseCaseError(f"{name}: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict) or tree is None:
        raise UseCaseError(f"{name}: a use case is a mapping with name, sources, features, …")
    try:
        return UseCase.model_validate(values)
    except ValidationError as error:
        items = [dict(item) for item in error.errors()]
        lines = [_explain(name, tree, item) for item in items if not _follows(item, items)]
        raise UseCaseError("\n".join(lines)) from None


def _follows(item: dict[str, Any], items: list[dict[str, Any]]) -> bool:
    """Whether a list is too short only because its elements are wrong, which their own errors state."""
    here = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(here)] == here and len(other["loc"]) > len(here) for other in items
    )


def _explain(name: str, tree: yaml.Node, error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"] and (path := _PATH.match(message)):
        return f"{name}:{_line(_find(tree, path[1]))}: {message}"  # the message begins with the path already
    node, where = _locate(tree, error["loc"])
    if key := _UNKNOWN_KEY.match(message):
        node = _child(node, key[1]) or node
    value = error.get("input")
    shown = "" if isinstance(value, (dict, list)) else f" = {value!r}"
    return f"{name}:{_line(node)}: {where or 'use case'}{shown}: {message}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _find(tree: yaml.Node, path: str) -> yaml.Node:
    """The deepest node on a path such as `labels.up.field`, in which a list's element goes by its name."""
    node = tree
    for step in path.split("."):
        child = _child(node, step)
        if child is None:
            break
        node = child
    return node


def _child(node: yaml.Node, step: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode):
        named = (item for item in node.value if (name := _child(item, "name")) is not None and name.value == step)
        return next(named, None)
    return None


def _locate(tree: yaml.Node, loc: tuple[int | str, ...]) -> tuple[yaml.Node, str]:
    """The deepest node on the error's path, and the path as it is written in the file."""
    node, path = tree, ""
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            child = _child(node, str(step))
            if child is None:
                if not _is_tag(step):
                    path += f".{step}"
                continue  # a missing key, or the tag of a union, which is not in the file
            node, path = child, f"{path}.{step}"
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node, path = node.value[step], f"{path}[{step}]"
    return node, path.lstrip(".")


def _is_tag(step: int | str) -> bool:
    return step in FEATURE_KINDS


def json_schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors."""
    return UseCase.model_json_schema(mode="validation")
