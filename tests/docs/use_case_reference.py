"""Writes docs/reference/use_case.md from the JSON Schema of the use-case file, so that the page stays true.

python tests/docs/use_case_reference.py > docs/reference/use_case.md
"""

from __future__ import annotations

import sys
from typing import Any

from evermodel.use_case import METRICS, format_duration, json_schema, metric_names

HEAD = """# The use-case file

`use_cases/NAME.yaml` declares one use case. This page is generated from the file's JSON Schema (`python
tests/docs/use_case_reference.py > docs/reference/use_case.md`); `evermodel config schema` prints the schema itself, which is the
source, for your editor. `evermodel config show NAME` prints a file with every default filled in.

- A *duration* is a whole number and `ms`, `s`, `m`, `h`, `d` or `w`: `30m`, `7d`. A *time* is ISO 8601 with its zone:
  `2026-01-31T12:00:00Z`. A *name* is letters, digits and `_`, not starting with a digit. A *window* is `{start: time, end: time}`,
  half-open.
- An *import path* is `package.module:name`; see [how to write one](../how-to/custom-code.md).
- A key in **bold** is required. An unknown key, a value out of range, a name that refers to nothing: an error with file, line,
  path, value and the nearest valid name. Nothing has been changed then.
- Every event has `event_time`, `created_time`, `ingest_seq` and `row_id`: no field may take these names.

Metrics by framing: {metrics}. In {falling} less is better.
"""
SIMULATOR = """## simulator

The settings of the reader `simulator`, which generates events: `seed`, `history`, `live_windows`, `users`, `items`, `contexts`, `pairs`, `traffic`,
`positions`, `logging`, `behaviour`, `outcomes` and a schedule of injected `faults`. `use_cases/restaurants.yaml` uses all of them.
`evermodel.simulation.config` checks them, with the same kind of errors.
"""
FEATURES = """## features

The inputs of the models. Each makes a column (a window makes one for each span, named `{name}_{span}`). Every kind takes these
keys, and its own below. `encode` selects the encoding: `numeric` standardises, `embed` learns a vector for each value seen in
training, `hash` one for each bucket, `bins` one for each quantile bin; `none` makes no input: only crosses and custom features
use the column.

"""
WORDS = {  # for keys whose schema has no description
    "": {
        "name": "everything of the use case is stored under it",
        "framing": "the kind of problem; it determines the metrics",
        "entities": "the things that events are about",
        "sources": "the origin of events",
        "predict": "the source whose rows get a prediction",
        "labels": "the outcomes of those rows",
        "features": "the inputs of the models",
        "objectives": "one model each; the score is Σ weight × objective's score",
        "split": "the validation rows of training",
        "training": "the recipe of the first champion and of each later round",
        "evaluation": "the metric and the baselines",
        "gate": "when a challenger may go live",
        "slices": "parts of the rows that are evaluated separately",
        "behaviour": "tests of how a model reacts to changed rows",
        "serving": "deadlines and the fallback",
        "monitoring": "windows, drift and alerts",
        "retraining": "the policy that decides when to retrain",
        "business": "the value of outcomes",
    },
    "sources": {
        "path": "below the data directory; `*` matches several files",
        "event_time": "the time of the event",
        "fields": "the columns, and their allowed values",
        "constants": "columns with one value in every row",
        "options": "options of the reader",
    },
    "sources.fields": {
        "min": "a row below it, or above `max`, is rejected",
        "values": "a row with another value is rejected",
        "nullable": "whether null is allowed",
    },
    "predict": {"source": "each row gets one prediction", "position": "the place at which an item was shown"},
    "labels": {
        "delay": "the time from the row until its outcome is known",
        "field": "of kind column: the column; absent: the label's name",
        "source": "of kind event: the source of the events",
        "match": "of kind event: the columns in which both rows agree",
        "value": "of kind event: the field that is summed; absent: 1 if an event came, else 0",
    },
    "features": {
        "valid_min": "monitoring calls values below it, or above `valid_max`, broken",
        "objectives": "the objectives that use it; absent: all",
    },
    "features: kind window": {
        "source": "the source of the aggregated events",
        "entity": "only events with the row's key of this entity",
        "field": "the aggregated field; none for count",
        "spans": "the lengths of the windows, one feature each",
        "delay": "the age from which an event counts",
        "where": "only events with these values",
    },
    "features: kind lag": {"steps": "the number of events to go back", "delay": "the age from which an event counts"},
    "features: kind cross": {"of": "features or columns of the row"},
    "features: kind custom": {"transform": "import path", "of": "the columns that it takes"},
    "objectives": {"weight": "in the score; can be changed while the model serves"},
    "objectives.model": {
        "hidden": "sizes of the hidden layers",
        "options": "of a custom model; of a two_tower `sum` and `wide`, of an mlp `wide`",
    },
    "training.stateful": {
        "restandardise": "fit means and scales to the new rows again, without changing the model's function"
    },
    "training": {"stateful": "the changes of this recipe in a stateful round"},
    "evaluation": {
        "metric": "the primary one",
        "k": "of top_k, hr, ndcg",
        "threshold": "a binary score from here on predicts the positive class",
    },
    "gate": {
        "resamples": "of the paired bootstrap",
        "minimum_rows": "the verdict on fewer rows is `hold`",
        "max_bytes": "the largest size of the packed release",
    },
    "behaviour": {
        "feature": "the feature that is changed",
        "set": "the new value",
        "add": "the value that is added",
        "expect": "of kind direction: where the score must move",
        "call": "of kind custom: import path",
    },
    "serving": {
        "deadline": "every request is answered within it, by the fallback if necessary",
        "feature_timeout": "the part of the deadline that the online store may take",
        "max_batch_size": "the most requests that are scored together",
        "batch_wait": "the time that the first request of a batch waits for others",
    },
    "monitoring": {
        "minimum_rows": "a window with fewer rows is not judged",
        "drift": "when a column counts as drifted",
    },
    "monitoring.drift": {
        "threshold": "a distance from here on is a drift; a p-value below it is one",
        "bins": "quantile bins of the champion's training rows",
    },
    "retraining": {
        "k": "the number of alerting windows, of the last `n`",
        "cooldown": "the time after a retrain in which no other starts",
        "minimum_new_rows": "matured rows that the champion hasn't been trained on",
        "diagnoses": "the diagnoses that start a retrain; broken data never does",
    },
    "business": {
        "value": "the value of one outcome, in `unit`",
        "label": "absent: the first objective's",
        "field": "the value is multiplied by this field",
    },
}
TITLES = {
    "ColumnFeature": "features: kind column",
    "CalendarFeature": "features: kind calendar",
    "WindowFeature": "features: kind window",
    "LagFeature": "features: kind lag",
    "CrossFeature": "features: kind cross",
    "CustomFeature": "features: kind custom",
    "Clock": "sources.event_time and created_time",
    "RowNumber": "sources.event_time.row_number",
}


def render() -> str:
    """The page."""
    schema = json_schema()
    sections = schema["$defs"]
    framings = dict.fromkeys(framing for metric in METRICS.values() for framing in metric.framings)
    metrics = "; ".join(
        f"{framing}: {', '.join(f'`{name}`' for name in metric_names(framing))}" for framing in framings
    )
    falling = [f"`{name}`" for name, metric in METRICS.items() if metric.less_is_better]
    titles = _titles(schema, sections)
    kinds = [name for name, title in titles.items() if title.startswith("features: ")]
    shared = set.intersection(*(set(sections[name]["properties"]) for name in kinds)) - {"kind"}
    head = HEAD.replace("{metrics}", metrics).replace("{falling}", f"{', '.join(falling[:-1])} and {falling[-1]}")
    parts = [head, "## The file\n\n" + _table(schema, titles, "")]
    for name, title in titles.items():
        if name == kinds[0]:
            parts.append(FEATURES + _table(sections[name], titles, "features", only=shared))
        text = " ".join(sections[name].get("description", "").split())
        own = set(sections[name]["properties"]) - (shared if name in kinds else set())
        parts.append(
            f"## {title}\n\n" + (f"{text}\n\n" if text else "") + _table(sections[name], titles, title, only=own)
        )
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
        return here + [
            name
            for key, value in spec.items()
            if key not in ("$ref", "discriminator", "default")
            for name in _refs(value)
        ]
    return [name for value in spec for name in _refs(value)] if isinstance(spec, list) else []


def _table(part: dict[str, Any], titles: dict[str, str], title: str, *, only: set[str] | None = None) -> str:
    required = set(part.get("required", []))
    lines = ["| key | type | default | what |", "|---|---|---|---|"]
    for key, spec in part["properties"].items():
        if only is not None and key not in only:
            continue
        shown = f"**{key}**" if key in required else key
        default = "" if key in required else _default(spec)
        said = spec.get("description") or WORDS.get(title, {}).get(key, "")
        lines.append(f"| {shown} | {_type(spec, titles)} | {default} | {said} |")
    return "\n".join(lines) + "\n"


def _type(spec: dict[str, Any], titles: dict[str, str]) -> str:
    """A type in words, with its bounds."""
    if "$ref" in spec:
        title = titles.get(spec["$ref"].rpartition("/")[2])
        return f"[section](#{_anchor(title)})" if title else "window"
    if "oneOf" in spec or "anyOf" in spec:
        kinds = [_type(one, titles) for one in spec.get("oneOf", spec.get("anyOf", [])) if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if "const" in spec:
        return f"`{spec['const']}`"
    kind = spec.get("type", "any")
    if kind == "array":
        items = spec.get("items", {})
        return "list of [features](#features)" if "oneOf" in items else f"list of {_type(items, titles)}"
    if kind == "object":
        return "mapping"
    if kind == "string":
        if "ms|s|m|h" in spec.get("pattern", ""):
            return "duration"
        return "name" if "pattern" in spec else "time" if spec.get("format") == "date-time" else "text"
    return {"integer": "whole number", "number": "number", "boolean": "true, false"}.get(kind, kind) + _bounds(spec)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").translate(str.maketrans("", "", ".:,"))


def _bounds(spec: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f" {word} {spec[key]:g}" for key, word in words.items() if key in spec)


def _default(spec: dict[str, Any]) -> str:
    if "default" not in spec or spec["default"] in (None, [], {}, ""):
        return ""
    value = spec["default"]
    if "ms|s|m|h" in spec.get("pattern", "") and isinstance(value, int):
        return f"`{format_duration(value)}`"
    if value == 2.0**-20:
        return "2⁻²⁰"
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, list):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(render())
