"""The distributions of simulated values: attributes (of users, items, requests, pairs of both), and terms that add up.

Every draw is a hash of its key, not a place in a random stream. So the device of request R is the same in any window,
and whether item I is ordered in request R depends on one fixed uniform number: two rankings of one day are compared on
common random numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Setting
from pydantic import model_validator
from scipy.special import ndtri

from evermodel.columns import Floats, Ints
from evermodel.use_case import Section, Share

Keys = NDArray[np.uint64]
DAY = 86_400_000_000


# draws --------------------------------------------------------------------------------------------------------------


def text_key(text: str) -> int:
    """64 bits of BLAKE2b: the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def text_keys(texts: Iterable[str]) -> Keys:
    return np.fromiter((text_key(text) for text in texts), dtype=np.uint64)


def mix(keys: Keys, salt: Keys | int) -> Keys:
    """One well-mixed key of two (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = keys * np.uint64(0x9E3779B97F4A7C15) + np.asarray(salt, dtype=np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def uniform(keys: Keys, stream: str) -> Floats:
    """float64[n] in (0, 1), one for each key; another `stream` gives independent numbers."""
    return ((mix(keys, text_key(stream)) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(keys: Keys, stream: str) -> Floats:
    return np.asarray(ndtri(uniform(keys, stream)), dtype=np.float64)


def gumbel(keys: Keys, stream: str) -> Floats:
    return np.asarray(-np.log(-np.log(uniform(keys, stream))), dtype=np.float64)


@dataclass(frozen=True)
class Categories:
    """A text column: row i holds labels[codes[i]]."""

    codes: Ints
    labels: tuple[str, ...]

    def take(self, index: Ints) -> Categories:
        return Categories(self.codes[index], self.labels)

    def keys(self) -> Keys:
        """uint64[n], the hash of each row's text."""
        return text_keys(self.labels)[self.codes]

    def weights(self, weights: Mapping[str, float], default: float = 0.0) -> Floats:
        """float64[n], the weight of each row's text."""
        return np.array([weights.get(label, default) for label in self.labels])[self.codes]


Columns = dict[str, Floats | Categories]


def numbers(columns: Columns, name: str) -> Floats:
    found = columns[name]
    assert not isinstance(found, Categories), name
    return found


def categories(columns: Columns, name: str) -> Categories:
    found = columns[name]
    assert isinstance(found, Categories), name
    return found


# terms --------------------------------------------------------------------------------------------------------------


class Linear(Section):
    """weight × (of − center)."""

    kind: Literal["linear"]
    of: str
    weight: float
    center: float = 0.0

    def value(self, columns: Columns, stream: str) -> Floats:
        return self.weight * (numbers(columns, self.of) - self.center)


class Slope(Section):
    """As linear, with a weight for each value of the category `by`."""

    kind: Literal["slope"]
    of: str
    by: str
    weights: dict[str, float]
    center: float = 0.0

    def value(self, columns: Columns, stream: str) -> Floats:
        return categories(columns, self.by).weights(self.weights) * (numbers(columns, self.of) - self.center)


class Effect(Section):
    """A number for each value of a category; 0 if it isn't listed."""

    kind: Literal["effect"]
    of: str
    weights: dict[str, float]

    def value(self, columns: Columns, stream: str) -> Floats:
        return categories(columns, self.of).weights(self.weights)


class Table(Section):
    """A number for each pair of values of two categories: weights[of][by]."""

    kind: Literal["table"]
    of: str
    by: str
    weights: dict[str, dict[str, float]]

    def value(self, columns: Columns, stream: str) -> Floats:
        rows, cells = categories(columns, self.of), categories(columns, self.by)
        grid = [[self.weights.get(row, {}).get(cell, 0.0) for cell in cells.labels] for row in rows.labels]
        return np.array(grid)[rows.codes, cells.codes]


class Taste(Section):
    """A fixed preference of each value of `by` for each value of `of`, drawn from N(0, scale²)."""

    kind: Literal["taste"]
    of: str
    by: str
    scale: float = Setting(gt=0)

    def value(self, columns: Columns, stream: str) -> Floats:
        pair = mix(categories(columns, self.by).keys(), categories(columns, self.of).keys())
        return self.scale * normal(pair, stream)


Term = Annotated[Linear | Slope | Effect | Table | Taste, Setting(discriminator="kind")]


def total(terms: Mapping[str, Term], columns: Columns, *, stream: str, scale: Mapping[str, float]) -> Floats | float:
    """Σ scale × term; the scale of a term that `scale` doesn't name is 1."""
    return sum((scale.get(name, 1.0) * term.value(columns, f"{stream}.{name}") for name, term in terms.items()), 0.0)


# attributes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """A shift of a column's distribution: a category's weights are multiplied, a number x becomes factor × x + add."""

    weights: dict[str, float]
    factor: float
    add: float


@dataclass(frozen=True)
class Draw:
    """The inputs of an attribute's draw: the keys of its rows, the stream's name, times, and the active shifts."""

    keys: Keys
    stream: str
    times: Ints
    shifts: Sequence[Shift]


class _Attribute(Section):
    missing: Share = Setting(0.0, description="share of the values that isn't observed")


class _Numeric(_Attribute):
    min: float | None = None
    max: float | None = None
    digits: int | None = Setting(None, ge=0, description="decimal digits to round to")

    def bounded(self, values: Floats, shifts: Sequence[Shift]) -> Floats:
        for shift in shifts:
            values = values * shift.factor + shift.add
        if self.min is not None or self.max is not None:
            values = np.clip(values, self.min, self.max)
        return values if self.digits is None else np.round(values, self.digits)


class Category(_Attribute):
    """One of `values`, drawn by weight."""

    kind: Literal["category"]
    values: dict[str, Annotated[float, Setting(ge=0)]] = Setting(min_length=1)

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if sum(self.values.values()) <= 0:
            raise ValueError("the weights of a category add up to 0")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.values)

    def draw(self, columns: Columns, draw: Draw) -> Categories:
        weights = np.array(list(self.values.values()))
        for shift in draw.shifts:
            weights = weights * np.array([shift.weights.get(label, 1.0) for label in self.values])
        bounds = np.cumsum(weights) / weights.sum()
        codes = np.searchsorted(bounds[:-1], uniform(draw.keys, draw.stream), side="right")
        return Categories(codes.astype(np.int64), self.labels)


class Number(_Numeric):
    """link(location + Σ terms + noise): noise is N(0, scale²), or uniform on [−scale, scale]."""

    kind: Literal["number"]
    location: float = 0.0
    scale: float = Setting(0.0, ge=0)
    noise: Literal["normal", "uniform"] = "normal"
    terms: dict[str, Term] = Setting({})
    link: Literal["identity", "exp"] = "identity"

    def draw(self, columns: Columns, draw: Draw) -> Floats:
        symmetric = self.noise == "normal"
        noise = normal(draw.keys, draw.stream) if symmetric else 2 * uniform(draw.keys, draw.stream) - 1
        return self.bounded(self._linked(columns, draw.stream, self.scale * noise), draw.shifts)

    def _linked(self, columns: Columns, stream: str, noise: Floats) -> Floats:
        value = np.asarray(self.location + total(self.terms, columns, stream=stream, scale={}) + noise)
        return np.exp(value) if self.link == "exp" else value


class Distance(_Numeric):
    """The straight line between two points, in the unit of their coordinates."""

    kind: Literal["distance"]
    start: tuple[str, str]
    end: tuple[str, str]

    def draw(self, columns: Columns, draw: Draw) -> Floats:
        x, y = (numbers(columns, a) - numbers(columns, b) for a, b in zip(self.start, self.end, strict=True))
        return self.bounded(np.hypot(x, y), draw.shifts)


class Calendar(_Attribute):
    """A part of the request's time, UTC."""

    kind: Literal["calendar"]
    part: Literal["hour", "weekday"]

    def draw(self, columns: Columns, draw: Draw) -> Floats:
        part = draw.times % DAY // (DAY // 24) if self.part == "hour" else (draw.times // DAY + 3) % 7
        return part.astype(np.float64)


class BinnedAttribute(_Attribute):
    """A name for each range of a number: `edges` are inner edges; a value on an edge belongs to the upper range."""

    kind: Literal["bins"]
    of: str
    edges: tuple[float, ...] = Setting(min_length=1)
    labels: tuple[str, ...]

    @model_validator(mode="after")
    def _one_more(self) -> Self:
        if len(self.labels) != len(self.edges) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError(f"{len(self.edges)} rising edges need {len(self.edges) + 1} labels")
        return self

    def draw(self, columns: Columns, draw: Draw) -> Categories:
        distinct = tuple(dict.fromkeys(self.labels))
        place = np.array([distinct.index(label) for label in self.labels])
        return Categories(place[np.searchsorted(self.edges, numbers(columns, self.of), side="right")], distinct)


Attribute = Annotated[Category | Number | Distance | Calendar | BinnedAttribute, Setting(discriminator="kind")]
Attributes = dict[str, Attribute]


def draw_all(
    attributes: Attributes,
    columns: Columns,
    *,
    keys: Keys,
    times: Ints,
    seed: int,
    shifts: Mapping[str, Sequence[Shift]],
) -> Columns:
    """`columns` and every attribute, in the file's order, so that an attribute may use those before it."""
    columns = dict(columns)
    for name, attribute in attributes.items():
        columns[name] = attribute.draw(columns, Draw(keys, f"{seed}.{name}", times, shifts.get(name, ())))
    return columns
