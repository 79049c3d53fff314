"""Scores for requests that the models or the features don't answer in time.

The last known score of the same entities, else the use case's heuristic, else its constant. Each score says which it is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from evermodel import plugins
from evermodel.serving.schemas import ranks_classes
from evermodel.use_case import UseCase

Key = tuple[Any, ...]


@dataclass(frozen=True)
class FallbackScore:
    """A score without a model. `classes`, best first, if a category is predicted."""

    score: float | None
    scores: Mapping[str, float | None]
    classes: tuple[str, ...] | None = None
    source: Literal["last_known", "heuristic", "constant"] = "last_known"


class Fallback:
    """The last known scores of one use case, for at most `capacity` keys (least recently used out). Thread-safe."""

    def __init__(self, use_case: UseCase, *, capacity: int = 100_000) -> None:
        source = use_case.prediction_source
        columns = {field.name for field in source.fields} | set(source.constants)
        self._keys = tuple(entity.key for entity in use_case.entities if entity.key in columns)
        self._objectives = tuple(objective.name for objective in use_case.objectives)
        self.is_category = ranks_classes(use_case)
        self._constant = use_case.serving.fallback
        self._heuristic = use_case.evaluation.heuristic
        self._heuristic_function: Callable[..., Any] | None = None
        if self._heuristic and ":" in self._heuristic:
            self._heuristic_function = plugins.load(self._heuristic, "heuristic")
        self._capacity = capacity
        self._last_known: OrderedDict[Key, FallbackScore] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._last_known)

    def key(self, row: Mapping[str, Any]) -> Key:
        """The row's entities: the key of its last known score."""
        return tuple(row.get(name) for name in self._keys)

    def remember(self, row: Mapping[str, Any], score: FallbackScore) -> None:
        """Keep a model's score for the row's entities."""
        key = self.key(row)
        with self._lock:
            self._last_known[key] = score
            self._last_known.move_to_end(key)
            while len(self._last_known) > self._capacity:
                self._last_known.popitem(last=False)

    def find(self, row: Mapping[str, Any]) -> FallbackScore:
        """The best score that is known without a model; never raises."""
        with self._lock:
            key = self.key(row)
            if key in self._last_known:
                self._last_known.move_to_end(key)
                return self._last_known[key]
        value = self._apply_heuristic(row)
        if value is not None:
            return FallbackScore(value, dict.fromkeys(self._objectives), source="heuristic")
        return FallbackScore(self._constant, dict.fromkeys(self._objectives), source="constant")

    def _apply_heuristic(self, row: Mapping[str, Any]) -> float | None:
        if self._heuristic is None:
            return None
        try:
            if self._heuristic_function is None:
                value = row.get(self._heuristic)
            else:
                columns = {name: np.asarray([value]) for name, value in row.items()}
                value = np.asarray(self._heuristic_function(columns)).reshape(-1)[0]
            score = float(value)  # type: ignore[arg-type]
        except Exception:  # a heuristic is the user's code; the constant must still answer
            return None
        return score if math.isfinite(score) else None
