"""The simulated marketplace in arrays: requests, true probabilities, outcomes. `simulator` turns them into tables.

The true probability of a row depends on its request, user, item and event time alone, so a row that was broken, stored
and read back has the same outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from evermodel.clock import from_micros
from evermodel.columns import Flags, Floats, Ints
from evermodel.errors import InputError
from evermodel.records import Window
from evermodel.simulation import drift_injection
from evermodel.simulation.config import Simulation
from evermodel.simulation.distributions import (
    DAY,
    Categories,
    Columns,
    Draw,
    Keys,
    categories,
    draw_all,
    gumbel,
    mix,
    numbers,
    text_key,
    text_keys,
    total,
    uniform,
)


@dataclass(frozen=True)
class Rows:
    """What identifies n rows: request, member numbers of user and item, event time in microseconds."""

    requests: Categories
    users: Ints
    items: Ints
    times: Ints

    def __len__(self) -> int:
        return len(self.times)

    def take(self, index: Ints) -> Rows:
        return Rows(self.requests.take(index), self.users[index], self.items[index], self.times[index])

    @cached_property
    def request_keys(self) -> Keys:
        return self.requests.keys()


@dataclass(frozen=True)
class Truth:
    """Every drawn column, without faults, and float64[n], the probability of the outcome of an examined item."""

    columns: Columns
    probability: Floats


@dataclass(frozen=True)
class MarketplaceEvents:
    """The outcomes of rows: `times` and `created` are int64 microseconds, `columns` hold the outcomes' attributes."""

    rows: Rows
    columns: Columns
    times: Ints
    created: Ints


class Marketplace:
    """The populations and distributions of one `simulator` section; `group` names the requests' column."""

    def __init__(self, settings: Simulation, *, group: str) -> None:
        self.settings, self.group = settings, group
        self.users = self._population("users")
        self.items = self._population("items")

    # requests -------------------------------------------------------------------------------------------------------

    def arrivals(self, window: Window, seed: int) -> tuple[tuple[str, ...], Ints]:
        """Ids and times (whole milliseconds, in microseconds) of the window's requests, drawn day by day."""
        traffic, (start, end) = self.settings.traffic, window.span
        hours = np.array(traffic.hours) / sum(traffic.hours)
        ids: list[str] = []
        times: list[Ints] = []
        for day in range(start // DAY, (end - 1) // DAY + 1):
            rng = np.random.default_rng([seed, day])
            count = rng.poisson(traffic.per_day * traffic.weekdays[(day + 3) % 7])
            within = rng.choice(24, size=count, p=hours) * 3_600_000 + rng.integers(3_600_000, size=count)
            found = np.sort(within) * 1000 + day * DAY
            tag = f"{text_key(f'{seed}.{day}') % 65_536:04x}"
            date = f"{from_micros(day * DAY):%Y%m%d}"
            inside = np.flatnonzero((found >= start) & (found < end))
            ids.extend(f"r{date}-{number:05d}-{tag}" for number in inside)
            times.append(found[inside])
        return tuple(ids), np.concatenate(times)

    def candidates(self, window: Window, seed: int) -> Rows:
        """Each request with its user and the items that it may show, by time."""
        ids, times = self.arrivals(window, seed)
        keys = text_keys(ids)
        users = np.empty(len(ids), dtype=np.int64)
        items = np.empty((len(ids), self.settings.traffic.candidates), dtype=np.int64)
        for index, active in drift_injection.by_active_faults(self.settings.faults, times):
            weights = np.cumsum(self._weights("users", active))
            draws = uniform(keys[index], f"{self.settings.seed}.user") * weights[-1]
            users[index] = np.searchsorted(weights[:-1], draws, side="right")
            items[index] = self._draw_items(keys[index], self._weights("items", active))
        width = items.shape[1]
        requests = Categories(np.repeat(np.arange(len(ids)), width), ids)
        return Rows(requests, np.repeat(users, width), items.reshape(-1), np.repeat(times, width))

    def _draw_items(self, keys: Keys, weights: Floats) -> Ints:
        """int64[n, candidates]: without replacement by weight (Gumbel top-k, Efraimidis and Spirakis 2006)."""
        pair = mix(np.repeat(keys, len(weights)), np.tile(self._item_keys, len(keys)))
        with np.errstate(divide="ignore"):  # a shift may give a member the weight 0
            draws = np.log(weights) + gumbel(pair, f"{self.settings.seed}.item").reshape(len(keys), len(weights))
        count = self.settings.traffic.candidates
        return np.sort(np.argpartition(-draws, count - 1, axis=1)[:, :count], axis=1).astype(np.int64)

    def _weights(self, name: str, active: Sequence[drift_injection.Fault]) -> Floats:
        """The weight of each member among requests, with the active covariate shifts."""
        population = self.settings.users if name == "users" else self.settings.items
        members = self.users if name == "users" else self.items
        weights = np.arange(1, population.count + 1, dtype=np.float64) ** -population.skew
        for column, shifts in drift_injection.shifts(active).items():
            for shift in shifts:
                if column in members and shift.weights:
                    weights = weights * categories(members, column).weights(shift.weights, default=1.0)
        return weights

    def _population(self, name: str) -> Columns:
        population = self.settings.users if name == "users" else self.settings.items
        labels = tuple(population.id.format(number) for number in range(population.count))
        if len(set(labels)) < len(labels):
            raise InputError(f"simulator.{name}.id = {population.id!r} gives the same key twice")
        keys = Categories(np.arange(len(labels)), labels)
        times = np.zeros(len(labels), dtype=np.int64)
        start: Columns = {population.key: keys}
        return draw_all(population.attributes, start, keys=keys.keys(), times=times, seed=self.settings.seed, shifts={})

    # probabilities --------------------------------------------------------------------------------------------------

    def pair_keys(self, rows: Rows) -> Keys:
        """uint64[n]: one for each request and item, at any position."""
        return mix(rows.request_keys, self._item_keys[rows.items])

    def truth(self, rows: Rows) -> Truth:
        """The true columns and probabilities, computed for each set of active faults."""
        parts: list[Columns] = []
        indices: list[Ints] = []
        probability = np.zeros(len(rows))
        for index, active in drift_injection.by_active_faults(self.settings.faults, rows.times):
            columns = self._draw(rows.take(index), active)
            probability[index] = self._behaviour(columns, active)
            parts.append(columns)
            indices.append(index)
        if not parts:
            return Truth(self._draw(rows, []), probability)
        back = np.argsort(np.concatenate(indices), kind="stable")
        return Truth({name: _joined([part[name] for part in parts], back) for name in parts[0]}, probability)

    def examined(self, probability: Floats, positions: Ints) -> Floats:
        """float64[n]: the outcome's probability at its position, from 1."""
        examination = np.array(self.settings.positions.examination)
        place = np.clip(positions, 1, len(examination)) - 1
        return np.asarray(probability * examination[place], dtype=np.float64)

    def logging_scores(self, rows: Rows) -> Floats:
        policy, stream = self.settings.logging, f"{self.settings.seed}.logging"
        scores = policy.noise * gumbel(self.pair_keys(rows), stream)
        if policy.terms:
            scores = scores + total(policy.terms, self.truth(rows).columns, stream=stream, scale={})
        return np.asarray(scores, dtype=np.float64)

    def events(self, rows: Rows, positions: Ints) -> MarketplaceEvents:
        """The outcomes of the rows, by time. Rows of one request and item have one outcome."""
        outcomes, seed = self.settings.outcomes, self.settings.seed
        pairs, once = np.unique(self.pair_keys(rows), return_index=True)
        truth = self.truth(rows.take(once))
        chance = self.examined(truth.probability, positions[once])
        taken = np.flatnonzero(uniform(pairs, f"{seed}.outcome") < chance)
        rows, pairs, columns = rows.take(once[taken]), pairs[taken], take_columns(truth.columns, taken)
        columns = draw_all(outcomes.attributes, columns, keys=pairs, times=rows.times, seed=seed, shifts={})
        after, reported = (
            _whole_milliseconds(number.draw(columns, Draw(pairs, f"{seed}.outcome.{name}", rows.times, ())))
            for name, number in (("after", outcomes.after), ("reported", outcomes.reported))
        )
        times = rows.times + after
        late = [fault for fault in self.settings.faults if isinstance(fault, drift_injection.LateLabels)]
        created = drift_injection.delay_labels(times + reported, late, times=times, keys=pairs)
        order = np.lexsort((pairs, times))
        return MarketplaceEvents(rows.take(order), take_columns(columns, order), times[order], created[order])

    def unobserved(self, name: str, rows: Rows) -> Flags | None:
        """bool[n]: the attribute isn't observed; the same in all rows of a user or item, or of a request for a context."""
        settings = self.settings
        user_keys = categories(self.users, settings.users.key).keys()
        for attributes, keys in (
            (settings.users.attributes, user_keys[rows.users]),
            (settings.items.attributes, self._item_keys[rows.items]),
            (settings.contexts, rows.request_keys),
            ({**settings.pairs, **settings.outcomes.attributes}, self.pair_keys(rows)),
        ):
            if name in attributes and attributes[name].missing:
                return np.asarray(uniform(keys, f"{settings.seed}.{name}.missing") < attributes[name].missing)
        return None

    @cached_property
    def _item_keys(self) -> Keys:
        return categories(self.items, self.settings.items.key).keys()

    def _draw(self, rows: Rows, active: Sequence[drift_injection.Fault]) -> Columns:
        """Every column of the rows, with the active covariate shifts."""
        settings, shifts = self.settings, drift_injection.shifts(active)
        columns: Columns = {self.group: rows.requests}
        columns |= take_columns(self.users, rows.users) | take_columns(self.items, rows.items)
        for name, attribute in {**settings.users.attributes, **settings.items.attributes}.items():
            if name in shifts and attribute.kind in ("number", "distance"):
                columns[name] = attribute.bounded(numbers(columns, name), shifts[name])
        for attributes, keys in ((settings.contexts, rows.request_keys), (settings.pairs, self.pair_keys(rows))):
            columns = draw_all(attributes, columns, keys=keys, times=rows.times, seed=settings.seed, shifts=shifts)
        return columns

    def _behaviour(self, columns: Columns, active: Sequence[drift_injection.Fault]) -> Floats:
        """float64[n]: σ(utility) with the active concept shifts, × the factor of the base rate."""
        behaviour, stream = self.settings.behaviour, f"{self.settings.seed}.behaviour"
        concepts = [fault for fault in active if isinstance(fault, drift_injection.ConceptShift)]
        scale = dict.fromkeys(behaviour.terms, 1.0)
        for concept in concepts:
            scale.update({name: scale[name] * factor for name, factor in concept.scale.items()})
        utility = behaviour.intercept + total(behaviour.terms, columns, stream=stream, scale=scale)
        for concept in concepts:
            utility = utility + total(concept.add, columns, stream=stream, scale={})
        factors = [fault.factor for fault in active if isinstance(fault, drift_injection.LabelShift)]
        chance = np.minimum(expit(utility) * np.prod(factors), 1.0)
        return np.broadcast_to(chance, (len(categories(columns, self.group).codes),))


def take_columns(columns: Columns, index: Ints) -> Columns:
    return {
        name: values.take(index) if isinstance(values, Categories) else values[index]
        for name, values in columns.items()
    }


def _whole_milliseconds(minutes: Floats) -> Ints:
    return np.round(minutes * 60_000).astype(np.int64) * 1000


def _joined(parts: list[Floats | Categories], order: Ints) -> Floats | Categories:
    first = parts[0]
    if isinstance(first, Categories):
        codes = [part.codes for part in parts if isinstance(part, Categories)]
        return Categories(np.concatenate(codes)[order], first.labels)
    return np.concatenate([part for part in parts if not isinstance(part, Categories)])[order]
