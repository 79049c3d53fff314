"""Evermodel keeps a model in production fresh: from events to a better live model and around again."""

from importlib.metadata import version

__version__ = version("evermodel")
