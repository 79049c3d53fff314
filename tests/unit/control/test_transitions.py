"""Serving's answers as an observation, and the transitions of one use case: pure functions."""

from datetime import UTC, datetime
from typing import Any

import pytest

from evermodel.control.rollout.transitions import (
    Observation,
    RolloutFailure,
    Target,
    Transition,
    UseCaseRollout,
    is_complete,
    next_transition,
    observe,
)

NOW = datetime(2026, 1, 31, tzinfo=UTC)
A, B, C = (Target(release=name, uri=f"s3://b/{name}/release.json") for name in "abc")
LIVE, WAITING, ERROR, SILENT = (
    Observation("live"),
    Observation("waiting"),
    Observation("error", "sha256 differs"),
    Observation("silent"),
)


def answer(replica: str, release: str | None, error: str | None = None, of: int = 2) -> dict[str, Any]:
    case = {"release": release, "error": error}
    return {"ready": True, "error": None, "use_cases": {"shop": case}, "replica": replica, "replicas": of}


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        ([], "silent"),
        ([answer("r1", "a")], "waiting"),
        ([answer("r1", "a"), answer("r1", "a"), answer("r1", "a")], "waiting"),
        ([answer("r1", "a"), answer("r2", "b")], "waiting"),
        ([answer("r1", "a"), answer("r2", None)], "waiting"),
        ([answer("r1", "a"), answer("r2", "a")], "live"),
        ([answer("r1", "b"), answer("r2", "a"), answer("r1", "a")], "live"),
        ([answer("r1", "a"), answer("r2", "b", "sha256 differs")], "error"),
        ([answer("r1", "a"), {**answer("r2", "a"), "error": "unknown use case"}], "error"),
        ([{"ready": False, "error": "the models don't answer", "use_cases": {}}], "waiting"),
        ([{"ready": True, "use_cases": {}}], "silent"),
    ],
)
def test_live_means_live_on_all_replicas(answers: list[dict[str, Any]], word: str) -> None:
    assert observe(answers, "shop", "a").word == word


def test_answers_are_complete_when_every_replica_has_answered() -> None:
    assert not is_complete([])
    assert not is_complete([answer("r1", "a"), answer("r1", "a")])
    assert is_complete([answer("r1", "a"), answer("r2", "b")])


def move(
    state: UseCaseRollout,
    champion: Target,
    configured: str | None,
    observation: Observation = SILENT,
    waited: float = 0.0,
) -> Transition:
    return next_transition(state, champion, configured, observation, waited=waited, deadline=60, now=NOW)


def test_a_new_champion_is_configured_observed_and_kept() -> None:
    first = move(UseCaseRollout(good=A), B, A.uri)
    assert (first.event, first.uri, first.state) == ("rolling", B.uri, UseCaseRollout(good=A, rolling=B))
    assert move(first.state, B, B.uri, WAITING, 59).event == ""
    last = move(first.state, B, B.uri, LIVE, 5)
    assert (last.event, last.uri, last.state) == ("live", B.uri, UseCaseRollout(good=B))
    assert move(last.state, B, B.uri) == Transition(UseCaseRollout(good=B), B.uri)


@pytest.mark.parametrize(("observation", "waited"), [(ERROR, 11), (WAITING, 61), (ERROR, 61)])
def test_a_release_that_fails_is_taken_back(observation: Observation, waited: float) -> None:
    taken_back = move(UseCaseRollout(good=A, rolling=B), B, B.uri, observation, waited)
    assert (taken_back.event, taken_back.uri) == ("failed", A.uri)
    assert taken_back.state.good == A and taken_back.state.rolling is None
    assert taken_back.state.failed is not None and taken_back.state.failed.release == "b"
    assert move(taken_back.state, B, A.uri) == Transition(taken_back.state, A.uri)  # it is not tried again


def test_an_early_error_and_an_outage_fail_no_release() -> None:
    rolling = UseCaseRollout(good=A, rolling=B)
    assert move(rolling, B, B.uri, ERROR, 3).event == ""
    assert move(rolling, B, B.uri, SILENT, 1000).event == ""


def test_after_a_failure_another_champion_or_a_requested_retry_is_tried() -> None:
    failed = UseCaseRollout(good=A, failed=RolloutFailure(release="b", reason="x", at=NOW))
    assert move(failed, C, A.uri).event == "rolling"
    assert move(failed.model_copy(update={"failed": None}), B, A.uri).event == "rolling"
    back = move(failed, A, A.uri)  # a rollback to the live release is done, and forgets the failure
    assert (back.event, back.uri, back.state) == ("", A.uri, UseCaseRollout(good=A))


def test_a_newer_champion_replaces_the_rolling_one() -> None:
    third = move(UseCaseRollout(good=A, rolling=B), C, B.uri, ERROR, 100)
    assert (third.event, third.uri, third.state) == ("rolling", C.uri, UseCaseRollout(good=A, rolling=C))
    back = move(UseCaseRollout(good=A, rolling=B), A, B.uri)
    assert (back.event, back.uri, back.state) == ("rolling", A.uri, UseCaseRollout(good=A, rolling=A))


def test_an_overwritten_config_is_written_again() -> None:
    assert move(UseCaseRollout(good=A), A, None).uri == A.uri
    assert move(UseCaseRollout(good=A, rolling=B), B, None, WAITING, 5).uri == B.uri
    failed = UseCaseRollout(good=A, failed=RolloutFailure(release="b", reason="x", at=NOW))
    assert move(failed, B, None).uri == A.uri


def test_a_release_configured_by_hand_is_put_back_if_the_first_champion_fails() -> None:
    first = move(UseCaseRollout(), B, "s3://by-hand/release.json")
    assert first.state.good == Target(release="", uri="s3://by-hand/release.json")
    assert move(first.state, B, B.uri, ERROR, 20).uri == "s3://by-hand/release.json"
    nothing = move(UseCaseRollout(rolling=B), B, B.uri, ERROR, 20)
    assert (nothing.event, nothing.uri) == ("failed", None)
