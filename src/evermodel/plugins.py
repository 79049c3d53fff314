"""What a use-case file can't say enters by import path (`package.module:name`), checked when the file is read.

Each seam is a function of named parameters; what is imported must be callable with them. Nothing is registered.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

from evermodel.errors import UseCaseError, nearest

Seam = Literal["source", "transform", "model", "loss", "heuristic", "behaviour"]

SIGNATURES: dict[str, tuple[str, ...]] = {
    "source": ("paths", "options"),  # (list[str], dict) -> pyarrow.Table of the source's raw columns
    "transform": ("columns",),  # (dict[str, ndarray[n]]) -> ndarray[n] of float64; pure
    "model": (
        "inputs",
        "outputs",
        "options",
    ),  # (InputSpec, int, dict) -> torch.nn.Module, called (dense[n, d], ids[n, c])
    "loss": ("outputs", "labels", "weights"),  # (tensor[n, k], tensor[n], tensor[n]) -> scalar tensor
    "heuristic": ("columns",),  # (dict[str, ndarray[n]]) -> ndarray[n] of scores
    "behaviour": ("score", "rows"),  # (callable(Table) -> ndarray[n], Table) -> tuple[bool, str]
}


def load(path: str, seam: Seam) -> Callable[..., Any]:
    """Import `package.module:name`; UseCaseError where it isn't there or doesn't take the seam's parameters."""
    module_name, _, name = path.partition(":")
    if not name:
        raise UseCaseError(f"{seam} {path!r} is no import path; write package.module:name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UseCaseError(f"{seam} {path!r}: {error}") from None
    if not hasattr(module, name):
        raise UseCaseError(f"{seam} {path!r}: {module_name} has no {name!r}; {nearest(name, dir(module))}")
    found = getattr(module, name)
    try:
        inspect.signature(found).bind(*SIGNATURES[seam])
    except (TypeError, ValueError):
        takes = ", ".join(SIGNATURES[seam])
        raise UseCaseError(f"{seam} {path!r} must be callable with ({takes})") from None
    return found  # type: ignore[no-any-return]
