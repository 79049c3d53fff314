"""What is worked out of a use case once: requests ask for it thousands of times a minute."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from evermodel.use_case.case import UseCase

Found = TypeVar("Found")


def of_use_case(make: Callable[[UseCase], Found]) -> Callable[[UseCase], Found]:
    """`make`, called once for each use case that is alive, by identity. Nobody may change what it gives."""
    known: dict[int, tuple[weakref.ref[UseCase], Found]] = {}

    @wraps(make)
    def remembered(use_case: UseCase) -> Found:
        entry = known.get(id(use_case))
        if entry is None or entry[0]() is not use_case:
            entry = weakref.ref(use_case), make(use_case)
            known[id(use_case)] = entry
            weakref.finalize(use_case, known.pop, id(use_case), None)
        return entry[1]

    return remembered
