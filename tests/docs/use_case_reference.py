"""Writes docs/reference/use_case.md from the JSON Schema of the use-case file, so that the page can't fall behind.

python tests/docs/use_case_reference.py > docs/reference/use_case.md
"""

from __future__ import annotations

import sys
from typing import Any

from evermodel.use_case import METRICS, format_duration, json_schema, metric_names

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

Metrics by framing: {metrics}. In {falling} less is better.
"""
SIMULATOR = """## simulator

What the reader `simulator` draws events from: `seed`, `history`, `live_windows`, `users`, `items`, `contexts`, `pairs`, `traffic`,
`positions`, `logging`, `behaviour`, `outcomes` and a schedule of planted `faults`. `use_cases/restaurants.yaml` uses every one; the
sections are checked by `evermodel.simulation.config`, with the same kind of errors.
"""
FEATURES = """## features

What a model sees, each a column (a window makes one a span, named `{name}_{span}`). Every kind takes these keys, and those of its own
below. `encode` says how it becomes an input: `numeric` standardises, `embed` learns a vector a seen
value, `hash` a vector a bucket, `bins` a vector a quantile bin, `none` leaves it to crosses and custom features.

"""
WORDS = {  # of keys whose schema says nothing
    "": {
        "name": "what everything of it is kept under",
        "framing": "what kind of answer, and so which metrics",
        "entities": "the things that events are about",
        "sources": "where events come from",
        "predict": "whose rows are answered",
        "labels": "what became of an answered row",
        "features": "what the models see",
        "objectives": "one model each; the score is Σ weight × objective's score",
        "split": "what validates in training",
        "training": "recipe of the first champion and of each turn",
        "evaluation": "the metric and the baselines",
        "gate": "when a challenger may go live",
        "slices": "parts of the rows that are judged apart",
        "behaviour": "tests of what a model does",
        "serving": "deadlines and the fallback",
        "monitoring": "the windows that answers are looked at in",
        "retraining": "the policy",
        "business": "what outcomes are worth",
    },
    "sources": {
        "path": "below the data directory; `*` takes several files",
        "event_time": "when an event happened",
        "fields": "the columns, and what is allowed in them",
        "constants": "columns that are the same in every row",
        "options": "of the reader",
    },
    "sources.fields": {
        "min": "below it a row is rejected; so is one above `max`",
        "values": "anything else is rejected",
        "nullable": "whether null is allowed",
    },
    "predict": {"source": "one row, one prediction", "position": "the place at which an item was shown"},
    "labels": {
        "delay": "how long after the row its outcome is known",
        "field": "of kind column: which one; absent: the label's name",
        "source": "of kind event: whose events",
        "match": "of kind event: columns that both sides share",
        "value": "of kind event: what is summed; absent: whether one came",
    },
    "features": {
        "valid_min": "below it monitoring calls the data broken; so it does above `valid_max`",
        "objectives": "which ones use it; absent: all",
    },
    "features: kind window": {
        "source": "whose events are aggregated",
        "entity": "whose own events: those with the row's key",
        "field": "what is aggregated; none for count",
        "spans": "how far back, one feature each",
        "delay": "how old an event must be to count",
        "where": "only events with these values",
    },
    "features: kind lag": {"steps": "how many events back", "delay": "how old the event must be"},
    "features: kind cross": {"of": "features or columns of the row"},
    "features: kind custom": {"transform": "import path", "of": "the columns that it is given"},
    "objectives": {"weight": "in the score; may be changed while it serves"},
    "objectives.model": {
        "hidden": "sizes of the hidden layers",
        "options": "of a custom model; of a two_tower `sum` and `wide`, of an mlp `wide`",
    },
    "training.stateful": {"restandardise": "let means and scales follow the new rows, without changing the function"},
    "training": {"stateful": "what a retraining turn changes of this recipe"},
    "evaluation": {
        "metric": "the primary one",
        "k": "of top_k, hr, ndcg",
        "threshold": "from which score on a binary answer is yes",
    },
    "gate": {
        "resamples": "of the paired bootstrap",
        "minimum_rows": "on fewer it holds",
        "max_bytes": "of the packed release",
    },
    "behaviour": {
        "feature": "which one is changed",
        "set": "to this value",
        "add": "by this much",
        "expect": "of kind direction",
        "call": "of kind custom: import path",
    },
    "serving": {
        "deadline": "within which every answer is given, by the fallback if need be",
        "feature_timeout": "what the online store may take of it",
        "max_batch_size": "rows scored together",
        "batch_wait": "how long the first of a batch waits for others",
    },
    "monitoring": {"minimum_rows": "on fewer nothing is judged", "drift": "when a column has moved"},
    "monitoring.drift": {
        "threshold": "from which on a distance is a drift (below which, of a p-value)",
        "bins": "quantile bins of the champion's training rows",
    },
    "retraining": {
        "k": "so many of the last `n` windows",
        "cooldown": "after a retrain nothing is started for so long",
        "minimum_new_rows": "matured rows that the champion hasn't been trained on",
        "diagnoses": "which ones retrain; broken data never does",
    },
    "business": {
        "value": "of one outcome, in `unit`",
        "label": "absent: the first objective's",
        "field": "what a value is multiplied by",
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
