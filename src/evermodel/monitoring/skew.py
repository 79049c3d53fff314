"""Train–serve skew as a number: what was served, replayed through the offline path, feature by feature."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evermodel.errors import DataError
from evermodel.monitoring.drift import watched_columns
from evermodel.use_case import UseCase

TOLERANCE = 1e-6  # relative: the online store holds float64, but a request's JSON may not


def skew(use_case: UseCase, served: pa.Table, offline: pa.Table) -> dict[str, float]:
    """Share of the served rows whose feature differs from the one that the offline path gives: 0 is no skew.

    served: answers with the features that were used; offline: the rows table of the same span. Rows are paired by the
    prediction source's identity (its unique columns; event time and entity keys where it names none), and answers whose
    event isn't there are left out. A feature that serving always says the same of isn't compared. Null equals null.
    Empty where no row has a pair.
    """
    keys = _identity(use_case, served)
    columns = [name for name in watched_columns(use_case) if name in served.column_names]
    ours = served.select([*keys, *columns])
    theirs = offline.select([*keys, *columns]).rename_columns([*keys, *(f"{name}:offline" for name in columns)])
    pairs = ours.join(theirs, keys=keys, join_type="inner")
    if pairs.num_rows == 0:
        return {}
    return {name: _differing(pairs[name], pairs[f"{name}:offline"]) for name in columns}


def _identity(use_case: UseCase, served: pa.Table) -> list[str]:
    source = use_case.prediction_source
    own = [entity.key for entity in use_case.entities]
    keys = list(source.unique) or ["event_time", *(key for key in own if key not in source.constants)]
    if missing := [key for key in keys if key not in served.column_names]:
        raise DataError(f"served rows have no {', '.join(missing)}: they can't be paired with their events")
    return keys


def _differing(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> float:
    """Share of pairs that are not the same value; two nulls are the same, one is not."""
    if pa.types.is_string(ours.type) or pa.types.is_string(theirs.type):
        same = pc.fill_null(pc.equal(ours.cast(pa.string()), theirs.cast(pa.string())), False)
        both = pc.and_(pc.is_null(ours), pc.is_null(theirs))
        return 1.0 - float(pc.mean(pc.or_(same, both).cast(pa.float64())).as_py())
    first, second = (column.cast(pa.float64()).to_numpy() for column in (ours, theirs))
    return 1.0 - float(np.isclose(first, second, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True).mean())
