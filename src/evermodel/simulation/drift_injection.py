"""Drift and faults injected into a simulated history: shifts of distributions, and broken columns.

A shift (covariate, label, concept) changes behaviour. A broken column changes the record alone: a user whose distance
arrives in metres still orders by kilometres. A fault is active for the rows whose event time is in [start, end); without
an end it stays active.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field as Setting
from pydantic import model_validator

from evermodel.clock import micros
from evermodel.columns import Flags, Ints, to_scalar
from evermodel.records import Time
from evermodel.simulation.distributions import Keys, Shift, Term, uniform
from evermodel.use_case import Duration, Section

Portion = Annotated[float, Setting(gt=0, le=1)]


class _Fault(Section):
    start: Time
    end: Time | None = Setting(None, description="if absent, it stays active")
    description: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> _Fault:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end {self.end.isoformat()} is not after start {self.start.isoformat()}")
        return self

    def is_active(self, times: Ints) -> Flags:
        """bool[n] for times in microseconds."""
        after = times >= micros(self.start)
        return after if self.end is None else after & (times < micros(self.end))


class CovariateShift(_Fault):
    """Inputs shift: a category's weights are multiplied (for users and items: their share of requests), a number scaled."""

    kind: Literal["covariate_shift"]
    column: str
    weights: dict[str, Annotated[float, Setting(ge=0)]] = Setting({})
    factor: float = 1.0
    add: float = 0.0

    @property
    def shift(self) -> Shift:
        return Shift(self.weights, self.factor, self.add)


class LabelShift(_Fault):
    """The base rate shifts: every outcome's probability × factor, at most 1."""

    kind: Literal["label_shift"]
    factor: float = Setting(gt=0)


class ConceptShift(_Fault):
    """Behaviour changes at equal inputs: terms are multiplied by `scale` (−1 reverses one), and new terms are added."""

    kind: Literal["concept_shift"]
    scale: dict[str, float] = Setting({})
    add: dict[str, Term] = Setting({})


class NullBurst(_Fault):
    """A share of a column's values is lost."""

    kind: Literal["null_burst"]
    column: str
    share: Portion = 1.0
    source: str | None = Setting(None, description="if absent: the prediction source")


class Unit(_Fault):
    """A column arrives in another unit: × factor."""

    kind: Literal["unit"]
    column: str
    factor: float
    source: str | None = Setting(None, description="if absent: the prediction source")


class Constant(_Fault):
    """A column has one value."""

    kind: Literal["constant"]
    column: str
    value: float | int | str
    source: str | None = Setting(None, description="if absent: the prediction source")


class Duplicate(_Fault):
    """A share of the rows arrives twice."""

    kind: Literal["duplicate"]
    share: Portion
    source: str | None = Setting(None, description="if absent: the prediction source")


class LateLabels(_Fault):
    """A share of the outcomes is reported this much later; their event times don't change."""

    kind: Literal["late_labels"]
    delay: Duration
    share: Portion = 1.0


BrokenColumn = NullBurst | Unit | Constant
BROKEN_COLUMN = (NullBurst, Unit, Constant)
Fault = Annotated[
    CovariateShift | LabelShift | ConceptShift | NullBurst | Unit | Constant | Duplicate | LateLabels,
    Setting(discriminator="kind"),
]


def by_active_faults(faults: Sequence[Fault], times: Ints) -> Iterator[tuple[Ints, list[Fault]]]:
    """The rows (as indices) with the same active faults, and those faults. Every row is in one group."""
    if not len(times):
        return
    if not faults:
        yield np.arange(len(times), dtype=np.int64), []
        return
    are_active = np.array([fault.is_active(times) for fault in faults], dtype=bool).reshape(len(faults), len(times))
    patterns, place = np.unique(are_active, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        index = np.flatnonzero(place.reshape(-1) == number).astype(np.int64)
        yield index, [fault for fault, active in zip(faults, pattern, strict=True) if active]


def shifts(active: Sequence[Fault]) -> dict[str, list[Shift]]:
    """Column → the active covariate shifts."""
    found: dict[str, list[Shift]] = {}
    for fault in active:
        if isinstance(fault, CovariateShift):
            found.setdefault(fault.column, []).append(fault.shift)
    return found


def _hit(fault: Fault, times: Ints, keys: Keys, share: float, stream: str) -> Flags:
    return np.asarray(fault.is_active(times) & (uniform(keys, stream) < share))


def break_columns(table: pa.Table, faults: Sequence[BrokenColumn], *, times: Ints, keys: Keys) -> pa.Table:
    """The table with the broken columns. `keys` decide which rows of a share are hit."""
    for number, fault in enumerate(faults):
        share = fault.share if isinstance(fault, NullBurst) else 1.0
        hit = _hit(fault, times, keys, share, f"{fault.kind}.{fault.column}.{number}")
        if hit.any():
            broken = pc.if_else(pa.array(hit), _broken(fault, table[fault.column]), table[fault.column])
            table = table.set_column(table.column_names.index(fault.column), fault.column, broken)
    return table


def _broken(fault: BrokenColumn, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Scalar:
    if isinstance(fault, NullBurst):
        return pa.scalar(None, column.type)
    if isinstance(fault, Constant):
        return to_scalar(fault.value, column.type, fault.column)
    return pc.multiply(column.cast(pa.float64()), fault.factor).cast(column.type, safe=False)


def duplicate_rows(table: pa.Table, faults: Sequence[Duplicate], *, times: Ints, keys: Keys) -> pa.Table:
    """The table with a copy directly after each row that is hit."""
    copies = np.ones(table.num_rows, dtype=np.int64)
    for number, fault in enumerate(faults):
        copies += _hit(fault, times, keys, fault.share, f"{fault.kind}.{number}")
    return table if (copies == 1).all() else table.take(pa.array(np.repeat(np.arange(table.num_rows), copies)))


def delay_labels(created: Ints, faults: Sequence[LateLabels], *, times: Ints, keys: Keys) -> Ints:
    """Creation times, int64 microseconds, with a delay for the rows that are hit."""
    for number, fault in enumerate(faults):
        created = created + fault.delay * _hit(fault, times, keys, fault.share, f"{fault.kind}.{number}")
    return created
