"""What a simulated history is planted with, and when: shifts of the world, and columns that break on the way.

A shift (covariate, label, concept) changes what happens. A broken column changes what is recorded, not what happens: a
user whose distance arrives in metres still orders by the kilometres. A fault holds for the rows whose own event time
is in [start, end); without an end it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field as Setting
from pydantic import model_validator

from evermodel.clock import micros
from evermodel.records import Time
from evermodel.simulation.distributions import Ints, Keys, Shift, Term, uniform
from evermodel.use_case import Duration, Section

Mask = NDArray[np.bool_]
Portion = Annotated[float, Setting(gt=0, le=1)]


class _Fault(Section):
    start: Time
    end: Time | None = Setting(None, description="absent: it stays")
    description: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> _Fault:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end {self.end.isoformat()} is not after start {self.start.isoformat()}")
        return self

    def holds(self, times: Ints) -> Mask:
        """bool[n] for times in microseconds."""
        after = times >= micros(self.start)
        return after if self.end is None else after & (times < micros(self.end))


class CovariateShift(_Fault):
    """Inputs move: a category's weights are multiplied (of users and items: how often they come), a number scaled."""

    kind: Literal["covariate_shift"]
    column: str
    weights: dict[str, Annotated[float, Setting(ge=0)]] = Setting({})
    factor: float = 1.0
    add: float = 0.0

    @property
    def shift(self) -> Shift:
        return Shift(self.weights, self.factor, self.add)


class LabelShift(_Fault):
    """The base rate moves: every outcome's probability × factor, at most 1."""

    kind: Literal["label_shift"]
    factor: float = Setting(gt=0)


class ConceptShift(_Fault):
    """Behaviour changes at equal inputs: terms of the behaviour count `scale` times (−1 turns one over), new ones join."""

    kind: Literal["concept_shift"]
    scale: dict[str, float] = Setting({})
    add: dict[str, Term] = Setting({})


class NullBurst(_Fault):
    """A share of a column's values is lost."""

    kind: Literal["null_burst"]
    column: str
    share: Portion = 1.0
    source: str | None = Setting(None, description="absent: the prediction source")


class Unit(_Fault):
    """A column arrives in another unit: × factor."""

    kind: Literal["unit"]
    column: str
    factor: float
    source: str | None = Setting(None, description="absent: the prediction source")


class Constant(_Fault):
    """A column stands still."""

    kind: Literal["constant"]
    column: str
    value: float | int | str
    source: str | None = Setting(None, description="absent: the prediction source")


class Duplicate(_Fault):
    """A share of the rows arrives twice."""

    kind: Literal["duplicate"]
    share: Portion
    source: str | None = Setting(None, description="absent: the prediction source")


class LateLabels(_Fault):
    """A share of the outcomes is reported this much later; they happen when they happen."""

    kind: Literal["late_labels"]
    delay: Duration
    share: Portion = 1.0


BrokenColumn = NullBurst | Unit | Constant
BROKEN_COLUMN = (NullBurst, Unit, Constant)
Fault = Annotated[
    CovariateShift | LabelShift | ConceptShift | NullBurst | Unit | Constant | Duplicate | LateLabels,
    Setting(discriminator="kind"),
]


def spells(faults: Sequence[Fault], times: Ints) -> Iterator[tuple[Ints, list[Fault]]]:
    """The rows (as indices) during which the same faults hold, with those faults. Every row is in one spell."""
    if not len(times):
        return
    if not faults:
        yield np.arange(len(times), dtype=np.int64), []
        return
    holding = np.array([fault.holds(times) for fault in faults], dtype=bool).reshape(len(faults), len(times))
    patterns, place = np.unique(holding, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        index = np.flatnonzero(place.reshape(-1) == number).astype(np.int64)
        yield index, [fault for fault, held in zip(faults, pattern, strict=True) if held]


def shifts(active: Sequence[Fault]) -> dict[str, list[Shift]]:
    """Column → the covariate shifts that hold."""
    found: dict[str, list[Shift]] = {}
    for fault in active:
        if isinstance(fault, CovariateShift):
            found.setdefault(fault.column, []).append(fault.shift)
    return found


def _hit(fault: Fault, times: Ints, keys: Keys, share: float, stream: str) -> Mask:
    return np.asarray(fault.holds(times) & (uniform(keys, stream) < share))


def break_columns(table: pa.Table, faults: Sequence[BrokenColumn], *, times: Ints, keys: Keys) -> pa.Table:
    """The table as it arrives. `keys` decide which rows of a share are hit."""
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
        return pa.scalar(fault.value).cast(column.type)
    return pc.multiply(column.cast(pa.float64()), fault.factor).cast(column.type, safe=False)


def duplicated(table: pa.Table, faults: Sequence[Duplicate], *, times: Ints, keys: Keys) -> pa.Table:
    """The table with each row that is hit directly followed by its copy."""
    copies = np.ones(table.num_rows, dtype=np.int64)
    for number, fault in enumerate(faults):
        copies += _hit(fault, times, keys, fault.share, f"{fault.kind}.{number}")
    return table if (copies == 1).all() else table.take(pa.array(np.repeat(np.arange(table.num_rows), copies)))


def delayed(created: Ints, faults: Sequence[LateLabels], *, times: Ints, keys: Keys) -> Ints:
    """Creation times, int64 microseconds, with the delay of those that are hit."""
    for number, fault in enumerate(faults):
        created = created + fault.delay * _hit(fault, times, keys, fault.share, f"{fault.kind}.{number}")
    return created
