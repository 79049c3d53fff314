"""How a champion goes live in serving: pure functions over the rollout's state and serving's answers.

The state is an annotation of the RayService, written together with the Serve config: a process that takes over after a
crash knows what was tried and what to put back. For each use case it has `good` (the release that was last live on all
replicas), `rolling` (the release that is going live) and `failed` (the release that did not; tried again only on
request).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from evermodel.records import Time

ERROR_GRACE_SECONDS = 10.0  # for this long an error may be about the release before: a replica has not heard yet


class State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Target(State):
    """A release and the URI of its `release.json`."""

    release: str
    uri: str


class RolloutFailure(State):
    release: str
    reason: str
    at: Time


class UseCaseRollout(State):
    """The rollout of one use case."""

    good: Target | None = None
    rolling: Target | None = None
    failed: RolloutFailure | None = None


class RolloutState(State):
    use_cases: dict[str, UseCaseRollout] = {}


@dataclass(frozen=True)
class Observation:
    """What serving reports of a release: `live` on all replicas, `waiting`, `error`, or `silent` without an answer."""

    word: Literal["live", "waiting", "error", "silent"]
    reason: str = ""


@dataclass(frozen=True)
class Transition:
    """What follows for one use case: its new state, the URI that the config should name (None: leave it), and what
    happened, if anything did."""

    state: UseCaseRollout
    uri: str | None
    event: Literal["", "rolling", "live", "failed"] = ""


def next_transition(
    state: UseCaseRollout,
    champion: Target,
    configured: str | None,
    observation: Observation,
    *,
    waited: float,
    deadline: float,
    now: Time,
) -> Transition:
    """The next transition of one use case.

    `waited`: seconds for which serving has answered since the config changed; while it is silent, no release fails.
    """
    good, rolling, failed = state.good, state.rolling, state.failed
    if failed is not None and failed.release == champion.release:
        return Transition(state, good.uri if good else None)
    if rolling is None or rolling != champion:
        if rolling is None and good == champion:
            return Transition(UseCaseRollout(good=good), champion.uri)  # forgets an earlier failure
        if good is None and rolling is None and configured not in (None, champion.uri):
            good = Target(release="", uri=str(configured))  # somebody configured it before this service ran
        return Transition(UseCaseRollout(good=good, rolling=champion), champion.uri, "rolling")
    if configured != champion.uri:
        return Transition(state, champion.uri, "rolling")  # somebody else wrote the config, e.g. a helm upgrade
    if observation.word == "live":
        return Transition(UseCaseRollout(good=champion), champion.uri, "live")
    is_late = observation.word != "silent" and waited > deadline
    if is_late or (observation.word == "error" and waited > ERROR_GRACE_SECONDS):
        reason = observation.reason or f"not live on all replicas within {deadline:.0f} s"
        failure = RolloutFailure(release=champion.release, reason=reason, at=now)
        return Transition(UseCaseRollout(good=good, failed=failure), good.uri if good else None, "failed")
    return Transition(state, champion.uri)


def observe(answers: Sequence[Mapping[str, Any]], name: str, release: str) -> Observation:
    """What the newest answer of each replica reports of a release.

    `live` needs an answer of every replica: each answer names its replica and their number.
    """
    newest: dict[str, Mapping[str, Any]] = {str(answer.get("replica", "")): answer for answer in answers}
    cases = [(answer, (answer.get("use_cases") or {}).get(name)) for answer in newest.values()]
    if not cases:
        return Observation("silent")
    for answer, case in cases:
        if case is None:  # the models are away for the moment, or serving requires a token to say more
            return Observation("waiting", str(answer["error"])) if answer.get("error") else Observation("silent")
        if error := answer.get("error") or case.get("error"):
            return Observation("error", str(error))
    live = sum((case or {}).get("release") == release for _, case in cases)
    replicas = max(_replica_count(answer) for answer in newest.values())
    return Observation("live" if live == len(cases) >= replicas else "waiting")


def is_complete(answers: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every replica is among those that answered."""
    counts = {str(answer.get("replica", "")): _replica_count(answer) for answer in answers}
    return bool(counts) and len(counts) >= max(counts.values())


def _replica_count(answer: Mapping[str, Any]) -> int:
    return int(answer.get("replicas") or 1)
