"""The edit of a Serve config, what serving's answers come to, and the steps of one use case: pure functions."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from evermodel.control.rollout.transitions import (
    CaseNotes,
    Failed,
    Observation,
    Target,
    Transition,
    is_complete,
    observe,
    releases,
    step,
    with_releases,
)
from evermodel.errors import EvermodelError

CONFIG = """
proxy_location: EveryNode
applications:
  - name: evermodel
    import_path: serving.app:build
    args:
      use_cases: {shop: s3://b/shop.yaml, guide: s3://b/guide.yaml}
      model_replicas: 2
    deployments:
      - {name: Ingress, num_replicas: 2}
      - name: Models
        num_replicas: 2
        user_config:
          use_cases:
            shop: {weights: {buy: 2.0}, arms: {canary: {release: s3://b/c.json, share: 0.1}}}
"""
NOW = datetime(2026, 1, 31, tzinfo=UTC)
A, B, C = (Target(release=name, uri=f"s3://b/{name}/release.json") for name in "abc")
LIVE, WAITING, ERROR, SILENT = (
    Observation("live"),
    Observation("waiting"),
    Observation("error", "sha256 differs"),
    Observation("silent"),
)


def test_a_release_is_named_and_all_else_stays() -> None:
    said = yaml.safe_load(with_releases(CONFIG, {"shop": A.uri, "guide": B.uri}))
    before = yaml.safe_load(CONFIG)
    models = said["applications"][0]["deployments"][1]
    assert models["user_config"]["use_cases"] == {
        "shop": {
            "weights": {"buy": 2.0},
            "arms": {"canary": {"release": "s3://b/c.json", "share": 0.1}},
            "release": A.uri,
        },
        "guide": {"release": B.uri},
    }
    models["user_config"] = before["applications"][0]["deployments"][1]["user_config"]
    assert said == before


def test_said_already_the_text_stays_as_it_is() -> None:
    once = with_releases(CONFIG, {"shop": A.uri})
    assert with_releases(once, {"shop": A.uri}) == once
    assert with_releases(CONFIG, {}) == CONFIG
    assert releases(once) == {"shop": A.uri, "guide": None}


def test_what_is_not_served_is_not_named() -> None:
    """One unknown name in `user_config`, and serving takes none of it."""
    assert with_releases(CONFIG, {"elsewhere": A.uri}) == CONFIG
    assert "elsewhere" not in with_releases(CONFIG, {"elsewhere": A.uri, "shop": A.uri})


def test_the_models_deployment_is_added_where_the_config_leaves_it_out() -> None:
    bare = "applications: [{name: evermodel, args: {use_cases: {shop: x}}}]"
    assert releases(with_releases(bare, {"shop": A.uri})) == {"shop": A.uri}


@pytest.mark.parametrize("text", ["", "[", "- a", "applications"])
def test_what_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(EvermodelError, match="serveConfigV2"):
        releases(text)


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
def test_live_is_live_on_all_replicas(answers: list[dict[str, Any]], word: str) -> None:
    assert observe(answers, "shop", "a").word == word


def test_asking_ends_when_all_have_answered() -> None:
    assert not is_complete([])
    assert not is_complete([answer("r1", "a"), answer("r1", "a")])
    assert is_complete([answer("r1", "a"), answer("r2", "b")])


def go(
    notes: CaseNotes, champion: Target, configured: str | None, seen: Observation = SILENT, waited: float = 0.0
) -> Transition:
    return step(notes, champion, configured, seen, waited=waited, deadline=60, now=NOW)


def test_a_new_champion_is_named_watched_and_kept() -> None:
    first = go(CaseNotes(good=A), B, A.uri)
    assert (first.event, first.uri, first.notes) == ("rolling", B.uri, CaseNotes(good=A, rolling=B))
    assert go(first.notes, B, B.uri, WAITING, 59).event == ""
    last = go(first.notes, B, B.uri, LIVE, 5)
    assert (last.event, last.uri, last.notes) == ("live", B.uri, CaseNotes(good=B))
    assert go(last.notes, B, B.uri) == Transition(CaseNotes(good=B), B.uri)


@pytest.mark.parametrize(("seen", "waited"), [(ERROR, 11), (WAITING, 61), (ERROR, 61)])
def test_what_serving_does_not_take_is_taken_back(seen: Observation, waited: float) -> None:
    over = go(CaseNotes(good=A, rolling=B), B, B.uri, seen, waited)
    assert (over.event, over.uri) == ("failed", A.uri)
    assert over.notes.good == A and over.notes.rolling is None
    assert over.notes.failed is not None and over.notes.failed.release == "b"
    assert go(over.notes, B, A.uri) == Transition(over.notes, A.uri)  # it isn't tried again


def test_an_error_of_before_and_an_outage_are_no_verdict() -> None:
    rolling = CaseNotes(good=A, rolling=B)
    assert go(rolling, B, B.uri, ERROR, 3).event == ""
    assert go(rolling, B, B.uri, SILENT, 1000).event == ""


def test_after_a_failure_another_champion_is_tried_and_the_same_when_asked() -> None:
    failed = CaseNotes(good=A, failed=Failed(release="b", reason="x", at=NOW))
    assert go(failed, C, A.uri).event == "rolling"
    assert go(failed.model_copy(update={"failed": None}), B, A.uri).event == "rolling"
    back = go(failed, A, A.uri)  # a rollback to what is live: done, and the failure is forgotten
    assert (back.event, back.uri, back.notes) == ("", A.uri, CaseNotes(good=A))


def test_a_champion_that_comes_meanwhile_takes_over() -> None:
    turned = go(CaseNotes(good=A, rolling=B), C, B.uri, ERROR, 100)
    assert (turned.event, turned.uri, turned.notes) == ("rolling", C.uri, CaseNotes(good=A, rolling=C))
    back = go(CaseNotes(good=A, rolling=B), A, B.uri)
    assert (back.event, back.uri, back.notes) == ("rolling", A.uri, CaseNotes(good=A, rolling=A))


def test_what_somebody_else_wrote_over_is_written_again() -> None:
    assert go(CaseNotes(good=A), A, None).uri == A.uri
    assert go(CaseNotes(good=A, rolling=B), B, None, WAITING, 5).uri == B.uri
    failed = CaseNotes(good=A, failed=Failed(release="b", reason="x", at=NOW))
    assert go(failed, B, None).uri == A.uri


def test_what_stood_there_before_is_put_back_if_the_first_fails() -> None:
    first = go(CaseNotes(), B, "s3://by-hand/release.json")
    assert first.notes.good == Target(release="", uri="s3://by-hand/release.json")
    assert go(first.notes, B, B.uri, ERROR, 20).uri == "s3://by-hand/release.json"
    nothing = go(CaseNotes(rolling=B), B, B.uri, ERROR, 20)
    assert (nothing.event, nothing.uri) == ("failed", None)
