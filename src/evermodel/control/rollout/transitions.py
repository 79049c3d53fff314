"""How a champion becomes what serving has live: pure functions over a Serve config and the notes kept beside it.

The notes lie on the RayService itself, in the same write as the config: who takes over after a crash in the middle knows
what was tried, since when, and what to put back. Of each use case they hold `good` (what was last live everywhere),
`rolling` (what is on its way) and `failed` (what serving didn't take; it isn't tried again until somebody asks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from evermodel.errors import EvermodelError
from evermodel.records import Time

NOTES = "evermodel.io/projection"
DEPLOYMENT = "Models"
SETTLE = 10.0  # seconds in which an error may still be the one before: a replica hasn't heard yet


class Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Target(Note):
    """A release and where its `release.json` lies."""

    release: str
    uri: str


class Failed(Note):
    release: str
    reason: str
    at: Time


class CaseNotes(Note):
    """Where one use case stands."""

    good: Target | None = None
    rolling: Target | None = None
    failed: Failed | None = None


class RolloutState(Note):
    use_cases: dict[str, CaseNotes] = {}


@dataclass(frozen=True)
class Observation:
    """What serving says of a use case: `live` on all replicas, `waiting`, `error`, or `silent` where nobody says."""

    word: Literal["live", "waiting", "error", "silent"]
    reason: str = ""


@dataclass(frozen=True)
class Transition:
    """What follows for one use case: its notes, the URI that the config should name (None: whatever it does), and
    what happened, if anything did."""

    notes: CaseNotes
    uri: str | None
    event: Literal["", "rolling", "live", "failed"] = ""


def step(
    notes: CaseNotes,
    champion: Target,
    configured: str | None,
    seen: Observation,
    *,
    waited: float,
    deadline: float,
    now: Time,
) -> Transition:
    """The next step of one use case. `waited`: seconds in which serving answered since the config was changed; while
    it is silent no verdict falls on a release."""
    good, rolling, failed = notes.good, notes.rolling, notes.failed
    if failed is not None and failed.release == champion.release:
        return Transition(notes, good.uri if good else None)
    if rolling is None or rolling != champion:
        if rolling is None and good == champion:
            return Transition(
                CaseNotes(good=good), champion.uri
            )  # what failed before it is forgotten: it may be tried again
        if good is None and rolling is None and configured not in (None, champion.uri):
            good = Target(release="", uri=str(configured))  # what stood there before this service came
        return Transition(CaseNotes(good=good, rolling=champion), champion.uri, "rolling")
    if configured != champion.uri:
        return Transition(notes, champion.uri, "rolling")  # somebody else wrote the config: a helm upgrade does
    if seen.word == "live":
        return Transition(CaseNotes(good=champion), champion.uri, "live")
    late = seen.word != "silent" and waited > deadline
    if (seen.word == "error" and waited > SETTLE) or late:
        reason = seen.reason or f"not live on all replicas within {deadline:.0f} s"
        over = Failed(release=champion.release, reason=reason, at=now)
        return Transition(CaseNotes(good=good, failed=over), good.uri if good else None, "failed")
    return Transition(notes, champion.uri)


# the Serve config ---------------------------------------------------------------------------------------------------


def releases(config: str) -> dict[str, str | None]:
    """The use cases that a Serve config serves, and the URI of each one's release where it names one."""
    found: dict[str, str | None] = {}
    for application in _applications(_parsed(config)):
        told = _user_config(application, make=False).get("use_cases") or {}
        for name in (application.get("args") or {}).get("use_cases") or {}:
            release = (told.get(name) or {}).get("release")
            found[str(name)] = release if isinstance(release, str) else None
    return found


def with_releases(config: str, wanted: Mapping[str, str]) -> str:
    """The config with these releases; the same text where it says so already. Weights and arms stay as they are, and
    what the config doesn't serve isn't added: one unknown name and serving takes none of it."""
    if all(releases(config).get(name) == uri for name, uri in wanted.items() if name in releases(config)):
        return config
    parsed = _parsed(config)
    for application in _applications(parsed):
        served = (application.get("args") or {}).get("use_cases") or {}
        told = _user_config(application, make=True).setdefault("use_cases", {})
        for name in served:
            if name in wanted:
                told[name] = {**(told.get(name) or {}), "release": wanted[name]}
    return yaml.safe_dump(parsed, sort_keys=False, allow_unicode=True, width=120)


def _parsed(config: str) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(config)
    except yaml.YAMLError as error:
        raise EvermodelError(f"serveConfigV2 is no YAML: {error}") from None
    if not isinstance(parsed, dict):
        raise EvermodelError("serveConfigV2 holds no applications")
    return parsed


def _applications(parsed: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in parsed.get("applications") or [] if isinstance(one, dict)]


def _user_config(application: dict[str, Any], *, make: bool) -> dict[str, Any]:
    """`user_config` of the models' deployment; with `make` it is there afterwards."""
    deployments = application.get("deployments") or []
    found = next((one for one in deployments if one.get("name") == DEPLOYMENT), None)
    if not make:
        return dict((found or {}).get("user_config") or {})
    if found is None:
        found = {"name": DEPLOYMENT}
        application["deployments"] = [*deployments, found]
    if found.get("user_config") is None:
        found["user_config"] = {}
    config: dict[str, Any] = found["user_config"]
    return config


# what serving says --------------------------------------------------------------------------------------------------


def observe(answers: Sequence[Mapping[str, Any]], name: str, release: str) -> Observation:
    """What the newest answer of each replica says of a release, in one word. All replicas must have answered: each
    says which one it is, and how many there are."""
    newest: dict[str, Mapping[str, Any]] = {str(answer.get("replica", "")): answer for answer in answers}
    cases = [(answer, (answer.get("use_cases") or {}).get(name)) for answer in newest.values()]
    if not cases:
        return Observation("silent")
    for answer, case in cases:
        if case is None:  # the models are gone for the moment; or serving wants a token before it says more
            return Observation("waiting", str(answer["error"])) if answer.get("error") else Observation("silent")
        if error := answer.get("error") or case.get("error"):
            return Observation("error", str(error))
    there = sum((case or {}).get("release") == release for _, case in cases)
    of = max(_count(answer) for answer in newest.values())
    if there == len(cases) and len(cases) >= of:
        return Observation("live")
    return Observation("waiting")


def is_complete(answers: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every replica is among those that answered."""
    known = {str(answer.get("replica", "")): _count(answer) for answer in answers}
    return bool(known) and len(known) >= max(known.values())


def _count(answer: Mapping[str, Any]) -> int:
    return int(answer.get("replicas") or 1)
