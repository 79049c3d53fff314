"""A behaviour test, a heuristic and a transform, to be loaded by import path."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa


def scores_all_rows(score: Callable[[pa.Table], Any], rows: pa.Table) -> tuple[bool, str]:
    scored = len(score(rows))
    return scored == rows.num_rows, f"{scored} of {rows.num_rows} rows have a score"


def by_sign(columns: dict[str, Any]) -> Any:
    """1 if x is above 0. The label's own column must not be among the columns."""
    assert "sold" not in columns
    return (np.nan_to_num(columns["x"]) > 0).astype(float)


def double(columns: dict[str, Any]) -> Any:
    return 2 * columns["x"]


def double_z(columns: dict[str, Any]) -> Any:
    return 2 * columns["z"]
