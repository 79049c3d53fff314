"""The command line: `evermodel VERB`."""

from evermodel.cli.app import main

__all__ = ["main"]
