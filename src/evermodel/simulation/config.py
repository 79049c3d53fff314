"""The `simulator` section of a use-case file, as frozen models, and the check of its names.

`users` and `items` are populations with attributes; `contexts` are drawn once per request, `pairs` once for each request
and item. An attribute named like a field of the prediction source is observed; any other is hidden: it changes behaviour
and no model sees it. The `behaviour` of an examined item is σ(intercept + Σ terms); `positions.examination` is the
probability that the item at position 1, 2, … is examined.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field as Setting
from pydantic import ValidationError

from evermodel.errors import InputError, nearest
from evermodel.records import Window
from evermodel.simulation import drift_injection
from evermodel.simulation.distributions import (
    Attribute,
    Attributes,
    BinnedAttribute,
    Calendar,
    Category,
    Distance,
    Number,
    Table,
    Taste,
    Term,
)
from evermodel.use_case import Section, Share, UseCase

Weight = Annotated[float, Setting(ge=0)]


class Population(Section):
    """Users, or items. Member i's key is `id` formatted with i."""

    key: str
    count: int = Setting(ge=1)
    id: str = Setting("{}", description="Python format of the member's number, such as u{:04d}")
    skew: float = Setting(0.0, ge=0, description="member i comes with weight (i + 1)^−skew")
    attributes: Attributes = Setting({})


class Traffic(Section):
    """Requests per day, their profile, and the numbers of candidate items and of shown items of each."""

    per_day: float = Setting(gt=0)
    hours: tuple[Weight, ...] = Setting((1.0,) * 24, min_length=24, max_length=24)
    weekdays: tuple[Weight, ...] = Setting((1.0,) * 7, min_length=7, max_length=7, description="from Monday; mean 1")
    candidates: int = Setting(ge=1)
    shown: int = Setting(ge=1)


class Positions(Section):
    """Position bias; the last share is for all further positions."""

    examination: tuple[Share, ...] = Setting((1.0,), min_length=1)


class LoggingPolicy(Section):
    """The ranking before the first model: Σ terms + Gumbel noise × `noise`; without terms, at random."""

    terms: dict[str, Term] = Setting({})
    noise: float = Setting(1.0, gt=0)


class CustomerBehaviour(Section):
    """The probability that an examined item is taken: σ(intercept + Σ terms)."""

    intercept: float
    terms: dict[str, Term] = Setting({})


class Outcomes(Section):
    """The events that follow. Times are minutes: it happens `after` the request, and is created `reported` later."""

    source: str
    after: Number
    reported: Number
    attributes: Attributes = Setting({})


class Simulation(Section):
    """The `simulator` section."""

    seed: int = Setting(ge=0)
    history: Window = Setting(description="the history under the logging policy, before the first model")
    live_windows: int = Setting(ge=1, description="monitoring windows that a demo simulates after the history")
    users: Population
    items: Population
    contexts: Attributes = Setting({})
    pairs: Attributes = Setting({})
    traffic: Traffic
    positions: Positions = Positions()
    logging: LoggingPolicy = LoggingPolicy()
    behaviour: CustomerBehaviour
    outcomes: Outcomes
    faults: tuple[drift_injection.Fault, ...] = ()

    @property
    def attributes(self) -> Attributes:
        """All attributes that are drawn before an outcome, in order."""
        return {**self.users.attributes, **self.items.attributes, **self.contexts, **self.pairs}


def simulation(use_case: UseCase) -> Simulation:
    """Reads and checks the use case's section. InputError with path, value and the nearest valid name."""
    if use_case.simulator is None:
        raise InputError(f"{use_case.name}: no simulator section")
    try:
        found = Simulation.model_validate(use_case.simulator)
    except ValidationError as error:
        raise InputError("\n".join(_explain(use_case, dict(item)) for item in error.errors())) from None
    try:
        _check_events(use_case, found)
        _check_names(use_case, found)
        _check_faults(use_case, found)
    except ValueError as error:
        raise InputError(f"{use_case.name}: simulator.{error}") from None
    return found


_TAGS = {"number", "category", "distance", "calendar", "bins", "linear", "slope", "effect", "table", "taste"} | {
    *("covariate_shift", "label_shift", "concept_shift", "null_burst", "unit", "constant", "duplicate", "late_labels")
}


def _explain(use_case: UseCase, error: dict[str, Any]) -> str:
    steps: list[Any] = list(error["loc"])
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}"
        for place, step in enumerate(steps)
        # the tag of a union follows an attribute's name or a fault's number, and isn't in the file
        if not (step in _TAGS and place and steps[place - 1] not in ("attributes", "contexts", "pairs", "terms", "add"))
    )
    value = error.get("input")
    shown = "" if isinstance(value, (dict, list)) else f" = {value!r}"
    return f"{use_case.name}: simulator{path}{shown}: {str(error['msg']).removeprefix('Value error, ')}"


def _need(where: str, name: str, valid: Iterable[str]) -> None:
    valid = set(valid)
    if name not in valid:
        raise ValueError(f"{where} = {name!r} is not there; {nearest(name, valid)}")


def _check_events(use_case: UseCase, found: Simulation) -> None:
    """Checks that every field of the two sources is drawn, and that the keys are named."""
    predict = use_case.predict
    if predict.group is None or predict.item is None:
        raise ValueError("users: the use case needs predict.group and predict.item, which the simulator writes")
    if found.items.key != predict.item:
        raise ValueError(f"items.key = {found.items.key!r} is not predict.item = {predict.item!r}")
    _need("outcomes.source", found.outcomes.source, [source.name for source in use_case.sources])
    drawn = {predict.group, predict.item, found.users.key, *found.attributes}
    for name, valid in (
        (predict.source, drawn | ({predict.position} if predict.position else set())),
        (found.outcomes.source, drawn | set(found.outcomes.attributes)),
    ):
        source = use_case.source(name)
        if source.event_time.field is None:
            raise ValueError(f"outcomes: source {name!r} needs event_time.field, which the simulator writes")
        for field in source.fields:
            if field.name not in valid:
                raise ValueError(f"contexts: nothing draws {name}.{field.name}; {nearest(field.name, valid)}")
    _need("users.key", found.users.key, [field.name for field in use_case.prediction_source.fields])
    if found.outcomes.after.max is None or found.outcomes.after.min is None or found.outcomes.after.min < 0:
        raise ValueError("outcomes.after needs a min of at least 0 and a max, in minutes")
    if found.traffic.shown > found.traffic.candidates or found.traffic.candidates > found.items.count:
        raise ValueError("traffic: shown ≤ candidates ≤ items.count must hold")


Known = dict[str, tuple[str, ...] | None]  # a category's values; None for a number


def _check_names(use_case: UseCase, found: Simulation) -> None:
    """Checks that terms and attributes use only attributes drawn before them, of the right kind and values."""
    keys: Known = {found.users.key: (), found.items.key: ()}
    known = dict(keys)
    for where, own, attributes in (
        ("users.attributes", found.users.key, found.users.attributes),
        ("items.attributes", found.items.key, found.items.attributes),
        ("contexts", None, found.contexts),
        ("pairs", None, found.pairs),
    ):
        # attributes of users can't use those of items, nor the reverse
        inside = dict(known) if own is None else {own: keys[own]}
        for name, attribute in attributes.items():
            if name in known:
                raise ValueError(f"{where}.{name} is drawn twice")
            known[name] = inside[name] = _check_attribute(f"{where}.{name}", attribute, inside)
    for where, terms in (("behaviour", found.behaviour.terms), ("logging", found.logging.terms)):
        _check_terms(f"{where}.terms", terms, known)
    for number, fault in enumerate(found.faults):
        if isinstance(fault, drift_injection.ConceptShift):
            _check_terms(f"faults[{number}].add", fault.add, known)
    for name, attribute in found.outcomes.attributes.items():
        if name in known:
            raise ValueError(f"outcomes.attributes.{name} is drawn twice")
        known[name] = _check_attribute(f"outcomes.attributes.{name}", attribute, known)


def _check_attribute(where: str, attribute: Attribute, known: Known) -> tuple[str, ...] | None:
    """The attribute's values; None if it is a number."""
    if isinstance(attribute, Calendar) and not where.startswith("contexts"):
        raise ValueError(f"{where}: only contexts have a time")
    if isinstance(attribute, Distance):
        for name in (*attribute.start, *attribute.end):
            _number(where, name, known)
    elif isinstance(attribute, BinnedAttribute):
        _number(f"{where}.of", attribute.of, known)
    elif isinstance(attribute, Number):
        _check_terms(f"{where}.terms", attribute.terms, known)
    return attribute.labels if isinstance(attribute, (Category, BinnedAttribute)) else None


def _check_terms(where: str, terms: dict[str, Term], known: Known) -> None:
    for name, term in terms.items():
        here = f"{where}.{name}"
        if isinstance(term, (Table, Taste)):
            values = _category(f"{here}.of", term.of, known)
            cells = _category(f"{here}.by", term.by, known)
            if isinstance(term, Table):
                _values(f"{here}.weights", term.weights, values)
                for row, weights in term.weights.items():
                    _values(f"{here}.weights.{row}", weights, cells)
        elif term.kind == "effect":
            _values(f"{here}.weights", term.weights, _category(f"{here}.of", term.of, known))
        else:
            _number(f"{here}.of", term.of, known)
            if term.kind == "slope":
                _values(f"{here}.weights", term.weights, _category(f"{here}.by", term.by, known))


def _number(where: str, name: str, known: Known) -> None:
    _need(where, name, [other for other, values in known.items() if values is None])


def _category(where: str, name: str, known: Known) -> tuple[str, ...]:
    _need(where, name, [other for other, values in known.items() if values is not None])
    return known[name] or ()


def _values(where: str, weights: Iterable[str], values: tuple[str, ...]) -> None:
    for value in weights if values else ():
        _need(where, value, values)


def _check_faults(use_case: UseCase, found: Simulation) -> None:
    keys = {use_case.predict.group, use_case.predict.item, use_case.predict.position, found.users.key}
    simulated = (use_case.predict.source, found.outcomes.source)
    for number, fault in enumerate(found.faults):
        where = f"faults[{number}]"
        if isinstance(fault, drift_injection.CovariateShift):
            _need(f"{where}.column", fault.column, found.attributes)
            shifted = found.attributes[fault.column]
            if isinstance(shifted, Category):
                _values(f"{where}.weights", fault.weights, shifted.labels)
            elif fault.weights or not isinstance(shifted, (Number, Distance)):
                raise ValueError(
                    f"{where}.column = {fault.column!r}: weights shift a category, factor and add a number"
                )
        elif isinstance(fault, drift_injection.ConceptShift):
            for name in fault.scale:
                _need(f"{where}.scale", name, found.behaviour.terms)
        elif isinstance(
            fault,
            (drift_injection.NullBurst, drift_injection.Unit, drift_injection.Constant, drift_injection.Duplicate),
        ):
            source = fault.source or use_case.predict.source
            _need(f"{where}.source", source, simulated)
            if not isinstance(fault, drift_injection.Duplicate):
                fields = {field.name for field in use_case.source(source).fields} - keys
                _need(f"{where}.column", fault.column, fields)
