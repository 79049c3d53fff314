"""Extension points: a use-case file names user code by import path (`package.module:name`).

Each extension point is a function with named parameters. The imported object must be callable with them; this is checked
when the file is read. There is no registry.
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
    """Import `package.module:name`. UseCaseError if it does not exist or does not take the parameters of the seam."""
    module_name, _, name = path.partition(":")
    if not name:
        raise UseCaseError(f"{seam} {path!r} is no import path; write package.module:name")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UseCaseError(f"{seam} {path!r}: {error}") from None
    if not hasattr(module, name):
        raise UseCaseError(f"{seam} {path!r}: {module_name} has no {name!r}; {nearest(name, dir(module))}")
    function = getattr(module, name)
    try:
        inspect.signature(function).bind(*SIGNATURES[seam])
    except (TypeError, ValueError):
        takes = ", ".join(SIGNATURES[seam])
        raise UseCaseError(f"{seam} {path!r} must be callable with ({takes})") from None
    return function  # type: ignore[no-any-return]
