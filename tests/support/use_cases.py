"""One builder of small use cases: a test states what matters to it, and the rest has defaults.

`fields`, `labels`, `features` and `objectives` are mappings from a name to settings, in the words of the use-case file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from evermodel import use_case
from evermodel.use_case import Model, UseCase

Settings = Mapping[str, Any]
Named = Mapping[str, "str | Settings"]
METRIC = {"binary": "auc", "multiclass": "accuracy", "regression": "mae", "ranking": "ndcg"}


def make_use_case(**changes: Any) -> UseCase:
    """The parsed use case; the arguments are those of `use_case_text`."""
    return use_case.parse(use_case_text(**changes))


def use_case_text(
    *,
    fields: Named,
    features: Named,
    labels: Named,
    objectives: Named | None = None,
    name: str = "shop",
    framing: str = "binary",
    entities: Named | None = None,
    source: Settings | None = None,
    other_sources: Named | None = None,
    predict: Settings | None = None,
    **sections: Any,
) -> str:
    """The YAML of a use case with one source, `visits` by default, whose rows are predicted.

    Args:
        fields: of the source; a text is the field's type.
        features: of kind column, unless the settings name another kind.
        labels: of kind column and known after an hour, unless the settings say otherwise.
        objectives: one for each label, if absent.
        entities: a text is the entity's key; `{"user": "user"}` if absent.
        source: settings of the source; it reads CSV and takes the event time from `at`, unless they say otherwise.
        other_sources: with their `fields`, of the same defaults.
        sections: all others, as in the file.
    """
    first = _source({"name": "visits", "fields": fields, **(source or {})})
    tree: dict[str, Any] = {
        "name": name,
        "framing": framing,
        "entities": _named(entities or {"user": "user"}, "key"),
        "sources": [
            first,
            *(_source({"name": other, **_settings(given)}) for other, given in (other_sources or {}).items()),
        ],
        "predict": {"source": first["name"], **(predict or {})},
        "labels": [{"kind": "column", "delay": "1h", **label} for label in _named(labels)],
        "features": [{"kind": "column", **feature} for feature in _named(features)],
        "objectives": _named(objectives or {label: label for label in labels}, "label"),
        "evaluation": {"metric": METRIC[framing]},
        "monitoring": {"window": "1d"},
    }
    return yaml.safe_dump(tree | sections, sort_keys=False)


def _source(given: Settings) -> dict[str, Any]:
    return {"reader": "csv", "event_time": {"field": "at"}, **given, "fields": _named(given["fields"], "type")}


def _named(given: Named, key: str = "kind") -> list[dict[str, Any]]:
    """A list of the file; a text in place of settings is the value of `key`."""
    return [{"name": name, **_settings(settings, key)} for name, settings in given.items()]


def _settings(given: str | Settings, key: str = "kind") -> dict[str, Any]:
    return {key: given} if isinstance(given, str) else dict(given)


def with_trees(case: UseCase, **options: float) -> UseCase:
    """The use case with every objective learned by gradient-boosted trees with these options."""
    model = Model(kind="gbt", options=options)
    objectives = tuple(objective.model_copy(update={"model": model}) for objective in case.objectives)
    return case.model_copy(update={"name": f"{case.name}_trees", "objectives": objectives})
