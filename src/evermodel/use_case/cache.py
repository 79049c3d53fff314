"""Values that are derived from a use case once, because requests need them thousands of times a minute."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from evermodel.use_case.case import UseCase

Value = TypeVar("Value")


def of_use_case(make: Callable[[UseCase], Value]) -> Callable[[UseCase], Value]:
    """Decorator: calls `make` once for each living use case, by identity. Callers must not change the value."""
    known: dict[int, tuple[weakref.ref[UseCase], Value]] = {}

    @wraps(make)
    def cached(use_case: UseCase) -> Value:
        entry = known.get(id(use_case))
        if entry is None or entry[0]() is not use_case:
            entry = weakref.ref(use_case), make(use_case)
            known[id(use_case)] = entry
            weakref.finalize(use_case, known.pop, id(use_case), None)
        return entry[1]

    return cached
