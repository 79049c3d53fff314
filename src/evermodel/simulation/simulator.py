"""A marketplace that lives as its use-case file says: requests come, items are shown, some are taken.

Pure: the same file and seed give the same rows, whichever window is asked for and however often; the rows of two
adjacent windows are the rows of their union. Tables carry the raw column names of their source, event and creation
time included, as `ingest` reads them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evermodel.clock import from_micros
from evermodel.errors import DataError
from evermodel.records import Window
from evermodel.simulation import drift_injection as planted
from evermodel.simulation.config import simulation
from evermodel.simulation.distributions import Categories, Columns, Floats, Ints, categories, uniform
from evermodel.simulation.marketplace import Market, Rows
from evermodel.use_case import Source, UseCase

MINUTE = 60_000_000
TIME = pa.timestamp("us", tz="UTC")
ARROW = {"float": pa.float64(), "int": pa.int64(), "string": pa.string(), "bool": pa.bool_(), "timestamp": TIME}


class Simulator:
    """One use case's simulated marketplace. InputError where its section is wrong."""

    def __init__(self, use_case: UseCase) -> None:
        self.settings = simulation(use_case)
        self._source = use_case.prediction_source
        self._outcomes = use_case.source(self.settings.outcomes.source)
        self._position = use_case.predict.position
        self._market = Market(self.settings, group=str(use_case.predict.group))

    # what happens ---------------------------------------------------------------------------------------------------

    def requests(self, window: Window, *, seed: int | None = None) -> pa.Table:
        """The candidates of every request in the window: what is known before anything is shown.

        One row a request and candidate item, by event time, without a position, broken where a fault breaks it.
        `seed` draws other requests in the same world; absent: the section's own.
        """
        rows = self._market.candidates(window, self.settings.seed if seed is None else seed)
        return self._table(self._source, self._market.truth(rows).columns, rows, times=rows.times, created=rows.times)

    def shown(self, candidates: pa.Table, scores: Floats | None) -> pa.Table:
        """Impressions: of each request the `traffic.shown` candidates with the highest score, at positions 1, 2, ….

        `scores` float64[n], not-a-number last, ties broken by a fixed draw; None: the logging policy.
        """
        rows = self._rows(candidates)
        if scores is None:
            scores = self._market.logging_scores(rows)
        if len(scores) != len(rows):
            raise DataError(f"{len(scores)} scores for {len(rows)} candidates")
        pairs = self._market.pair_keys(rows)
        codes = rows.requests.codes  # numbered as they come
        ranked = np.lexsort((uniform(pairs, "tie"), -np.nan_to_num(scores, nan=-np.inf), codes, rows.times))
        positions = _places(codes[ranked])
        kept = positions <= self.settings.traffic.shown
        ranked, positions = ranked[kept], positions[kept]
        table = candidates.take(pa.array(ranked))
        if self._position is not None:
            table = self._with_position(table, positions)
        return self._arrived_twice(table, self._source, rows.take(ranked), times=rows.times[ranked])

    def outcomes(self, impressions: pa.Table) -> pa.Table:
        """The events that follow the impressions, by event time. A row that arrived twice has one outcome.

        The same request and item draw the same uniform number wherever it is shown: two rankings of the same requests
        are compared on common random numbers.
        """
        events = self._market.events(self._rows(impressions), self._positions(impressions))
        table = self._table(self._outcomes, events.columns, events.rows, times=events.times, created=events.created)
        return self._arrived_twice(table, self._outcomes, events.rows, times=events.times)

    def history(self, window: Window) -> dict[str, pa.Table]:
        """Source → its events of the window, under the logging policy: impressions, and the outcomes in the window.

        Outcomes that happen in the window of impressions before it are among them.
        """
        start, end = window.span
        longest = int(float(self.settings.outcomes.after.max or 0) * MINUTE) + 1
        before = Window(start=from_micros(start - longest), end=window.end)
        impressions = self.shown(self.requests(before), None)
        tables = ((self._source, impressions), (self._outcomes, self.outcomes(impressions)))
        return {source.name: _between(table, str(source.event_time.field), start, end) for source, table in tables}

    # what is true ---------------------------------------------------------------------------------------------------

    def expected(self, impressions: pa.Table) -> Floats:
        """float64[n]: the true probability of each row's outcome, at its position; of candidates, at position 1."""
        truth = self._market.truth(self._rows(impressions))
        return self._market.examined(truth.probability, self._positions(impressions))

    def expected_value(self, impressions: pa.Table, attribute: str) -> Floats:
        """float64[n]: the mean of a number of the outcome (such as its amount), should it happen; unbounded."""
        found = self.settings.outcomes.attributes.get(attribute)
        if found is None or found.kind != "number":
            raise DataError(f"no number {attribute!r} among the simulator's outcome attributes")
        columns = self._market.truth(self._rows(impressions)).columns
        mean = np.asarray(found.mean(columns, f"{self.settings.seed}.{attribute}"), dtype=np.float64)
        return np.broadcast_to(mean, (impressions.num_rows,)).copy()

    # rows and tables ------------------------------------------------------------------------------------------------

    def _table(self, source: Source, columns: Columns, rows: Rows, *, times: Ints, created: Ints) -> pa.Table:
        """The source's fields as they arrive: natural gaps, then broken columns, then raw names and times."""
        fields = [field for field in source.fields if field.name != self._position]
        gaps = [self._market.unobserved(field.name, rows) for field in fields]
        arrays = [_array(columns[field.name], gap, field.type) for field, gap in zip(fields, gaps, strict=True)]
        table = pa.table(arrays, names=[field.name for field in fields])
        broken = [fault for fault in self.settings.faults if isinstance(fault, planted.BROKEN_COLUMN)]
        broken = [fault for fault in broken if (fault.source or self._source.name) == source.name]
        table = planted.break_columns(table, broken, times=times, keys=self._market.pair_keys(rows))
        table = table.rename_columns([field.column or field.name for field in fields])
        for clock, values in ((source.event_time, times), (source.created_time, created)):
            if clock is not None and clock.field is not None and clock.field not in table.column_names:
                table = table.append_column(clock.field, pa.array(values, TIME))
        return table

    def _arrived_twice(self, table: pa.Table, source: Source, rows: Rows, *, times: Ints) -> pa.Table:
        doubled = [fault for fault in self.settings.faults if isinstance(fault, planted.Duplicate)]
        doubled = [fault for fault in doubled if (fault.source or self._source.name) == source.name]
        return planted.duplicated(table, doubled, times=times, keys=self._market.pair_keys(rows))

    def _with_position(self, table: pa.Table, positions: Ints) -> pa.Table:
        field = self._source.field(str(self._position))
        place = min([each.name for each in self._source.fields].index(field.name), table.num_columns)
        return table.add_column(place, field.column or field.name, pa.array(positions).cast(ARROW[field.type]))

    def _positions(self, table: pa.Table) -> Ints:
        column = self._raw(self._position) if self._position else ""
        if column not in table.column_names:
            return np.ones(table.num_rows, dtype=np.int64)
        return np.asarray(table[column].cast(pa.int64()).to_numpy(), dtype=np.int64)

    def _raw(self, name: str) -> str:
        return self._source.field(name).column or name

    def _rows(self, table: pa.Table) -> Rows:
        """The identity of rows that came from `requests` or `shown`. DataError for a member that isn't there."""
        users, items, clock = self.settings.users.key, self.settings.items.key, str(self._source.event_time.field)
        wanted = [self._raw(self._market.group), self._raw(users), self._raw(items), clock]
        if absent := [name for name in wanted if name not in table.column_names]:
            raise DataError(f"simulated rows need the columns {', '.join(wanted)}; {', '.join(absent)} is absent")
        codes, ids = _encoded(table[wanted[0]])
        times = table[clock].cast(TIME).cast(pa.int64()).to_numpy()
        return Rows(
            Categories(codes, ids),
            _members(table[wanted[1]], categories(self._market.users, users).labels, users),
            _members(table[wanted[2]], categories(self._market.items, items).labels, items),
            np.asarray(times, dtype=np.int64),
        )


def read(use_case: UseCase, source_name: str, window: Window) -> pa.Table:
    """What the reader `simulator` gives `ingest`: the raw rows of one source in the window, by the logging policy."""
    history = Simulator(use_case).history(window)
    if source_name not in history:
        raise DataError(f"the simulator of {use_case.name} writes {' and '.join(history)}, not {source_name!r}")
    return history[source_name]


def _places(groups: Ints) -> Ints:
    """1, 2, … within each run of equal values."""
    starts = np.flatnonzero(np.r_[np.ones(min(1, len(groups)), dtype=bool), groups[1:] != groups[:-1]])
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)])) + 1


def _array(values: Floats | Categories, gaps: NDArray[np.bool_] | None, kind: str) -> pa.Array:
    """The column in the field's type, null where it isn't observed."""
    if isinstance(values, Categories):
        codes = pa.array(values.codes.astype(np.int32), mask=gaps)
        return (
            pa.DictionaryArray.from_arrays(codes, pa.array(values.labels, pa.string()))
            .cast(pa.string())
            .cast(ARROW[kind])
        )
    found = np.round(values).astype(np.int64) if kind == "int" else values
    return pa.array(found, mask=gaps).cast(ARROW[kind])


def _encoded(column: pa.ChunkedArray) -> tuple[Ints, tuple[str, ...]]:
    """Each row's number and the distinct texts, in the order of their first row. DataError for a null."""
    texts = pa.array(column.cast(pa.string()).to_pylist(), pa.string())
    if texts.null_count:
        raise DataError("simulated rows can't have nulls among their keys")
    encoded = pc.dictionary_encode(texts)
    return np.asarray(encoded.indices.to_numpy(), dtype=np.int64), tuple(encoded.dictionary.to_pylist())


def _members(column: pa.ChunkedArray, labels: tuple[str, ...], name: str) -> Ints:
    codes, found = _encoded(column)
    number = {label: place for place, label in enumerate(labels)}
    if unknown := [label for label in found if label not in number]:
        raise DataError(f"{name} {unknown[0]!r} is not in the simulated world")
    return np.array([number[label] for label in found], dtype=np.int64)[codes]


def _between(table: pa.Table, column: str, start: int, end: int) -> pa.Table:
    times = table[column].cast(pa.int64()).to_numpy()
    return table.filter(pa.array((times >= start) & (times < end)))
