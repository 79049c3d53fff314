"""Writes docs/reference/use_case.md from the JSON Schema of the use-case file, so that the page can't fall behind.

    python tests/docs/use_case_reference.py > docs/reference/use_case.md
"""

from __future__ import annotations

import sys
from typing import Any

from evermodel.use_case import METRICS, json_schema

HEAD = """# The use-case file

`use_cases/NAME.yaml`: all that makes one model's life. This page is generated from the file's JSON Schema (`python
tests/docs/use_case_reference.py > docs/reference/use_case.md`); `evermodel config schema` prints the schema itself, which is the
source, for your editor. `evermodel config show NAME` prints a file with every default filled in.

- A *duration* is a whole number and `ms`, `s`, `m`, `h`, `d` or `w`: `30m`, `7d`. A *time* is ISO 8601 with its zone:
  `2026-01-31T12:00:00Z`. A *name* is letters, digits and `_`, not starting with a digit. A *window* is `{start: time, end: time}`,
  half-open.
- An *import path* is `package.module:name`; see [how to write one](../how-to/custom-code.md).
- A key in **bold** is required. An unknown key, a value out of range, a name that refers to nothing: an error with file, line,
  path, value and the nearest valid name. Nothing is guessed, and nothing has been changed.
- Every event has `event_time`, `created_time`, `ingest_seq` and `row_id`: no field may take these names.

Metrics by framing: {metrics}. In `log_loss`, `brier`, `ece`, `mae`, `rmse` and `rmsle` less is better.
"""
SIMULATOR = """## simulator

What the reader `simulator` draws events from: `seed`, `history`, `live_windows`, `users`, `items`, `contexts`, `pairs`, `traffic`,
`positions`, `logging`, `behaviour`, `outcomes` and a schedule of planted `faults`. `use_cases/restaurants.yaml` uses every one; the
sections are checked by `evermodel.data.simulation`, with the same kind of errors.
"""
TITLES = {
    "ColumnFeature": "features: kind column",
    "CalendarFeature": "features: kind calendar",
    "WindowFeature": "features: kind window",
    "LagFeature": "features: kind lag",
    "CrossFeature": "features: kind cross",
    "CustomFeature": "features: kind custom",
    "Clock": "event_time, created_time",
    "RowNumber": "row_number",
    "Window": "window",
}


def render() -> str:
    """The page."""
    schema = json_schema()
    sections = schema["$defs"]
    metrics = "; ".join(f"{framing}: {', '.join(f'`{name}`' for name in names)}" for framing, names in METRICS.items())
    parts = [HEAD.replace("{metrics}", metrics), "## The file\n\n" + _table(schema, sections)]
    for name, title in _titles(schema, sections).items():
        text = " ".join(sections[name].get("description", "").split())
        parts.append(f"## {title}\n\n" + (f"{text}\n\n" if text else "") + _table(sections[name], sections))
    return "\n".join([*parts, SIMULATOR])


def _titles(schema: dict[str, Any], sections: dict[str, Any]) -> dict[str, str]:
    """Sections in the order in which the file reaches them, each under the key that it is found at."""
    found: dict[str, str] = {}

    def walk(part: dict[str, Any], path: str) -> None:
        for key, spec in part["properties"].items():
            for name in _refs(spec):
                if name in found or name == "Window":
                    continue
                found[name] = TITLES.get(name, f"{path}{key}")
                walk(sections[name], f"{path}{key}." if path or name not in TITLES else f"{key}.")

    walk(schema, "")
    return found


def _refs(spec: Any) -> list[str]:
    if isinstance(spec, dict):
        here = [spec["$ref"].rpartition("/")[2]] if "$ref" in spec else []
        return here + [name for key, value in spec.items() if key not in ("$ref", "discriminator", "default") for name in _refs(value)]
    return [name for value in spec for name in _refs(value)] if isinstance(spec, list) else []


def _table(part: dict[str, Any], sections: dict[str, Any]) -> str:
    required = set(part.get("required", []))
    lines = ["| key | type | default | what |", "|---|---|---|---|"]
    for key, spec in part["properties"].items():
        shown = f"**{key}**" if key in required else key
        default = "" if key in required else _default(spec)
        lines.append(f"| {shown} | {_type(spec)} | {default} | {spec.get('description', '')} |")
    return "\n".join(lines) + "\n"


def _type(spec: dict[str, Any]) -> str:
    """A type in words, with its bounds."""
    if "$ref" in spec:
        name = spec["$ref"].rpartition("/")[2]
        return "window" if name == "Window" else f"section {name}"
    if "oneOf" in spec or "anyOf" in spec:
        kinds = [_type(one) for one in spec.get("oneOf", spec.get("anyOf", [])) if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{spec['const']}`"
    kind = spec.get("type", "any")
    if kind == "array":
        items = spec.get("items", {})
        inner = "one of the features below" if "oneOf" in items else _type(items)
        return f"list of {inner}"
    if kind == "object":
        return "mapping"
    if kind == "string":
        if "ms|s|m|h" in spec.get("pattern", ""):
            return "duration"
        return "name" if "pattern" in spec else "time" if spec.get("format") == "date-time" else "text"
    return {"integer": "whole number", "number": "number", "boolean": "true, false"}.get(kind, kind) + _bounds(spec)


def _bounds(spec: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f" {word} {spec[key]:g}" for key, word in words.items() if key in spec)


def _default(spec: dict[str, Any]) -> str:
    if "default" not in spec or spec["default"] in (None, [], {}, ""):
        return ""
    value = spec["default"]
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, list):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(render())
