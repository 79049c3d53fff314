"""The simulator: requests, shown items and outcomes of a use case's marketplace, as raw tables.

Pure: the same file and seed always give the same rows, and the rows of two adjacent windows are the rows of their union.
Tables have the raw column names of their source, event and creation time included, as `ingest` reads them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from evermodel.clock import from_micros
from evermodel.columns import ARROW_TYPES, TIME, Flags, Floats, Ints, codes, ints
from evermodel.errors import DataError
from evermodel.records import Window
from evermodel.simulation import drift_injection
from evermodel.simulation.config import simulation
from evermodel.simulation.distributions import Categories, Columns, categories, uniform
from evermodel.simulation.marketplace import Marketplace, Rows
from evermodel.use_case import Source, UseCase

MINUTE = 60_000_000


class Simulator:
    """One use case's simulated marketplace. InputError if its section is wrong."""

    def __init__(self, use_case: UseCase) -> None:
        self.settings = simulation(use_case)
        self._source = use_case.prediction_source
        self._outcomes = use_case.source(self.settings.outcomes.source)
        self._position = use_case.predict.position
        self._marketplace = Marketplace(self.settings, group=str(use_case.predict.group))

    # requests and outcomes ------------------------------------------------------------------------------------------

    def requests(self, window: Window, *, seed: int | None = None) -> pa.Table:
        """The candidates of every request in the window, as known before any item is shown.

        One row per request and candidate item, by event time, without a position, with broken columns. `seed` draws
        other requests of the same marketplace; if None, the section's own.
        """
        rows = self._marketplace.candidates(window, self.settings.seed if seed is None else seed)
        return self._table(
            self._source, self._marketplace.truth(rows).columns, rows, times=rows.times, created=rows.times
        )

    def shown(self, candidates: pa.Table, scores: Floats | None) -> pa.Table:
        """Impressions: the `traffic.shown` candidates of each request with the highest scores, at positions 1, 2, ….

        `scores`: float64[n], NaN last, ties broken by a fixed draw; None: the logging policy.
        """
        rows = self._rows(candidates)
        if scores is None:
            scores = self._marketplace.logging_scores(rows)
        if len(scores) != len(rows):
            raise DataError(f"{len(scores)} scores for {len(rows)} candidates")
        pairs = self._marketplace.pair_keys(rows)
        requests = rows.requests.codes  # numbered by first appearance
        ranked = np.lexsort((uniform(pairs, "tie"), -np.nan_to_num(scores, nan=-np.inf), requests, rows.times))
        positions = _places(requests[ranked])
        kept = positions <= self.settings.traffic.shown
        ranked, positions = ranked[kept], positions[kept]
        table = candidates.take(pa.array(ranked))
        if self._position is not None:
            table = self._with_position(table, positions)
        return self._with_duplicates(table, self._source, rows.take(ranked), times=rows.times[ranked])

    def outcomes(self, impressions: pa.Table) -> pa.Table:
        """The events that follow the impressions, by event time. A duplicated row has one outcome.

        A request and item have the same uniform number at any position, so two rankings of the same requests are
        compared on common random numbers.
        """
        events = self._marketplace.events(self._rows(impressions), self._positions(impressions))
        table = self._table(self._outcomes, events.columns, events.rows, times=events.times, created=events.created)
        return self._with_duplicates(table, self._outcomes, events.rows, times=events.times)

    def history(self, window: Window) -> dict[str, pa.Table]:
        """Source → its events of the window, under the logging policy: impressions, and the outcomes in the window.

        These include outcomes in the window of impressions before it.
        """
        start, end = window.span
        longest = int(float(self.settings.outcomes.after.max or 0) * MINUTE) + 1
        before = Window(start=from_micros(start - longest), end=window.end)
        impressions = self.shown(self.requests(before), None)
        tables = ((self._source, impressions), (self._outcomes, self.outcomes(impressions)))
        return {source.name: _between(table, str(source.event_time.field), start, end) for source, table in tables}

    # true probabilities ---------------------------------------------------------------------------------------------

    def expected(self, impressions: pa.Table) -> Floats:
        """float64[n]: the true probability of each row's outcome, at its position; of candidates, at position 1."""
        truth = self._marketplace.truth(self._rows(impressions))
        return self._marketplace.examined(truth.probability, self._positions(impressions))

    # rows and tables ------------------------------------------------------------------------------------------------

    def _table(self, source: Source, columns: Columns, rows: Rows, *, times: Ints, created: Ints) -> pa.Table:
        """The source's raw table: missing values, then broken columns, then raw names and times."""
        fields = [field for field in source.fields if field.name != self._position]
        gaps = [self._marketplace.unobserved(field.name, rows) for field in fields]
        arrays = [_array(columns[field.name], gap, field.type) for field, gap in zip(fields, gaps, strict=True)]
        table = pa.table(arrays, names=[field.name for field in fields])
        broken = [fault for fault in self.settings.faults if isinstance(fault, drift_injection.BROKEN_COLUMN)]
        broken = [fault for fault in broken if (fault.source or self._source.name) == source.name]
        table = drift_injection.break_columns(table, broken, times=times, keys=self._marketplace.pair_keys(rows))
        table = table.rename_columns([field.column or field.name for field in fields])
        for clock, values in ((source.event_time, times), (source.created_time, created)):
            if clock is not None and clock.field is not None and clock.field not in table.column_names:
                table = table.append_column(clock.field, pa.array(values, TIME))
        return table

    def _with_duplicates(self, table: pa.Table, source: Source, rows: Rows, *, times: Ints) -> pa.Table:
        duplicates = [fault for fault in self.settings.faults if isinstance(fault, drift_injection.Duplicate)]
        duplicates = [fault for fault in duplicates if (fault.source or self._source.name) == source.name]
        return drift_injection.duplicate_rows(table, duplicates, times=times, keys=self._marketplace.pair_keys(rows))

    def _with_position(self, table: pa.Table, positions: Ints) -> pa.Table:
        field = self._source.field(str(self._position))
        place = min([each.name for each in self._source.fields].index(field.name), table.num_columns)
        return table.add_column(place, field.column or field.name, pa.array(positions).cast(ARROW_TYPES[field.type]))

    def _positions(self, table: pa.Table) -> Ints:
        column = self._raw(self._position) if self._position else ""
        if column not in table.column_names:
            return np.ones(table.num_rows, dtype=np.int64)
        return ints(table[column])

    def _raw(self, name: str) -> str:
        return self._source.field(name).column or name

    def _rows(self, table: pa.Table) -> Rows:
        """The identity of rows of `requests` or `shown`. DataError if a member is unknown."""
        users, items, clock = self.settings.users.key, self.settings.items.key, str(self._source.event_time.field)
        wanted = [self._raw(self._marketplace.group), self._raw(users), self._raw(items), clock]
        if absent := [name for name in wanted if name not in table.column_names]:
            raise DataError(f"simulated rows need the columns {', '.join(wanted)}; {', '.join(absent)} is absent")
        return Rows(
            Categories(*_encoded(table[wanted[0]])),
            _members(table[wanted[1]], categories(self._marketplace.users, users).labels, users),
            _members(table[wanted[2]], categories(self._marketplace.items, items).labels, items),
            ints(table[clock].cast(TIME)),
        )


def read(use_case: UseCase, source_name: str, window: Window) -> pa.Table:
    """The reader `simulator`: the raw rows of one source in the window, under the logging policy."""
    history = Simulator(use_case).history(window)
    if source_name not in history:
        raise DataError(f"the simulator of {use_case.name} writes {' and '.join(history)}, not {source_name!r}")
    return history[source_name]


def _places(groups: Ints) -> Ints:
    """1, 2, … within each run of equal values."""
    starts = np.flatnonzero(np.r_[np.ones(min(1, len(groups)), dtype=bool), groups[1:] != groups[:-1]])
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)])) + 1


def _array(values: Floats | Categories, gaps: Flags | None, kind: str) -> pa.Array:
    """The column in the field's type, null if it isn't observed."""
    if isinstance(values, Categories):
        indices = pa.array(values.codes.astype(np.int32), mask=gaps)
        texts = pa.DictionaryArray.from_arrays(indices, pa.array(values.labels, pa.string())).cast(pa.string())
        return texts.cast(ARROW_TYPES[kind])
    found = np.round(values).astype(np.int64) if kind == "int" else values
    return pa.array(found, mask=gaps).cast(ARROW_TYPES[kind])


def _encoded(column: pa.ChunkedArray) -> tuple[Ints, tuple[str, ...]]:
    """Each row's code and the distinct texts, in the order of their first row. DataError if there is a null."""
    if column.null_count:
        raise DataError("simulated rows can't have nulls among their keys")
    found, values = codes(column.cast(pa.string()))
    return found, tuple(values.to_pylist())


def _members(column: pa.ChunkedArray, labels: tuple[str, ...], name: str) -> Ints:
    found, keys = _encoded(column)
    number = {label: place for place, label in enumerate(labels)}
    if unknown := [key for key in keys if key not in number]:
        raise DataError(f"{name} {unknown[0]!r} is not in the simulated marketplace")
    return np.array([number[key] for key in keys], dtype=np.int64)[found]


def _between(table: pa.Table, column: str, start: int, end: int) -> pa.Table:
    times = ints(table[column])
    return table.filter(pa.array((times >= start) & (times < end)))
