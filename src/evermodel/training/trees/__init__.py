"""Gradient-boosted trees: the LightGBM implementation of the trainer."""

from evermodel.errors import EvermodelError

try:
    import lightgbm  # noqa: F401
except OSError as error:  # the wheel takes OpenMP from the system
    raise EvermodelError(f"a model of kind gbt needs the system library libgomp (Debian: libgomp1): {error}") from error
