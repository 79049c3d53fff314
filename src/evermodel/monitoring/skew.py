"""Train–serve skew as a number: the served features, recomputed offline and compared one by one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.columns import floats, is_text, texts, true_mask, valid_mask
from evermodel.errors import DataError
from evermodel.monitoring.drift import watched_columns
from evermodel.use_case import UseCase

TOLERANCE = 1e-6  # relative: the online store has float64, a request's JSON maybe not


def skew(use_case: UseCase, served: pa.Table, offline: pa.Table) -> dict[str, float]:
    """For each feature, the share of served rows whose value differs from the one recomputed offline; 0 is no skew.

    served: answers with the features that were used; offline: the rows table of the same span. Rows are paired by the
    prediction source's identity (its unique columns; event time and entity keys if it names none). Answers without an
    event are left out. A feature that serving fixes (`serve_as`) isn't compared. Null equals null. Empty if no row has
    a pair.
    """
    keys = _identity(use_case, served)
    columns = [name for name in watched_columns(use_case) if name in served.column_names]
    ours = served.select([*keys, *columns])
    theirs = offline.select([*keys, *columns]).rename_columns([*keys, *(f"{name}:offline" for name in columns)])
    pairs = ours.join(theirs, keys=keys, join_type="inner")
    if pairs.num_rows == 0:
        return {}
    return {name: _share_different(pairs[name], pairs[f"{name}:offline"]) for name in columns}


def _identity(use_case: UseCase, served: pa.Table) -> list[str]:
    source = use_case.prediction_source
    own = [entity.key for entity in use_case.entities]
    keys = list(source.unique) or ["event_time", *(key for key in own if key not in source.constants)]
    if missing := [key for key in keys if key not in served.column_names]:
        raise DataError(f"served rows have no {', '.join(missing)}: they can't be paired with their events")
    return keys


def _share_different(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> float:
    """Share of pairs with different values; two nulls are equal, one null and a value are not."""
    if is_text(ours.type) or is_text(theirs.type):
        same = true_mask(pc.equal(texts(ours), texts(theirs)))
        both_null = ~valid_mask(ours) & ~valid_mask(theirs)
        return 1.0 - float((same | both_null).mean())
    first, second = floats(ours), floats(theirs)
    return 1.0 - float(np.isclose(first, second, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True).mean())
