"""`python -m pipelines compile|run|submit|schedule`: which pipelines there are. The commands are in the library."""

from importlib import import_module
from typing import Any

from evermodel.cli.pipelines import main

NAMES = ("training", "monitoring", "materialize", "batch_prediction")


def trace() -> dict[str, Any]:
    """The pipelines by name. They are imported only now, because a platform must be set before they are traced."""
    return {name: getattr(import_module(f"pipelines.{name}"), name) for name in NAMES}


if __name__ == "__main__":
    main(NAMES, trace)
