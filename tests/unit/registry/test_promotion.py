"""Promotion follows the gate's verdict unless a person overrides it with a reason; rollback."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from evermodel.errors import ConflictError, GateError, IntegrityError
from evermodel.ledger import Ledger
from evermodel.records import Promotion, Release, Verdict
from evermodel.registry.promotion import promote, rollback
from tests.unit.registry.small_releases import PASSED, WINDOW, MakeRelease

NOW = WINDOW.end + timedelta(days=1)
HELD = Verdict(word="hold", reasons=("the interval reaches to -0.04",))


def commit(ledger: Ledger, release: Release, expected: str | None, **more: Any) -> Promotion:
    settings: dict[str, Any] = {"verdict": PASSED, "actor": "pipeline", "reason": "drift"} | more
    return promote(ledger, release, expected=expected, now=NOW, **settings)


def roll_back(ledger: Ledger, **more: Any) -> Promotion:
    return rollback(ledger, "electricity", now=NOW, actor="anna", reason="complaints", **more)


def damage(release: Release) -> None:
    path = Path(release.bundles[0].uri) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def test_a_second_promotion_returns_the_row_of_the_first(ledger: Ledger, release: MakeRelease) -> None:
    a = release("a")
    row = commit(ledger, a, None)
    assert (row.action, row.verdict, row.actor, row.reason, row.at) == ("promote", PASSED, "pipeline", "drift", NOW)
    assert commit(ledger, a, None) == row
    assert ledger.champion("electricity") == a


@pytest.mark.parametrize("word", ["hold", "reject"])
def test_a_release_that_the_gate_did_not_pass_is_refused(ledger: Ledger, release: MakeRelease, word: Any) -> None:
    with pytest.raises(GateError, match=rf"the gate says {word}: slice 'night' fell"):
        commit(ledger, release("a"), None, verdict=Verdict(word=word, reasons=("slice 'night' fell",)), actor="anna")
    assert ledger.champion("electricity") is None


def test_the_override_of_a_person_is_recorded(ledger: Ledger, release: MakeRelease) -> None:
    row = commit(ledger, release("a"), None, verdict=HELD, actor="anna", reason="the old one is down", override=True)
    assert row.reason == "override by anna: the old one is down (the gate says hold: the interval reaches to -0.04)"
    assert row.verdict == HELD


@pytest.mark.parametrize(("actor", "reason"), [("pipeline", "it is better"), ("anna", " ")])
def test_an_override_needs_a_person_and_a_reason(ledger: Ledger, release: MakeRelease, actor: str, reason: str) -> None:
    with pytest.raises(GateError, match="only a person overrides"):
        commit(ledger, release("a"), None, verdict=HELD, actor=actor, reason=reason, override=True)
    assert ledger.champion("electricity") is None


def test_a_damaged_release_is_not_promoted(ledger: Ledger, release: MakeRelease) -> None:
    a = release("a")
    damage(a)
    with pytest.raises(IntegrityError):
        commit(ledger, a, None)
    assert ledger.champion("electricity") is None


def test_a_lost_race_is_a_conflict(ledger: Ledger, release: MakeRelease) -> None:
    a = release("a")
    commit(ledger, a, None)
    with pytest.raises(ConflictError):
        commit(ledger, release("b"), None)


def test_each_rollback_goes_back_one_promotion(ledger: Ledger, release: MakeRelease) -> None:
    a, b, c = (release(name) for name in "abc")
    for promoted, expected in ((a, None), (b, a.id), (c, b.id)):
        commit(ledger, promoted, expected)
    row = roll_back(ledger)
    assert (row.action, row.release, row.previous, row.actor) == ("rollback", b, c.id, "anna")
    assert roll_back(ledger).release == a
    with pytest.raises(ConflictError, match="no champion to go back to"):
        roll_back(ledger)
    assert ledger.verify_chain("electricity") == []


def test_a_repeated_rollback_goes_back_once(ledger: Ledger, release: MakeRelease) -> None:
    a, b, c = (release(name) for name in "abc")
    for promoted, expected in ((a, None), (b, a.id), (c, b.id)):
        commit(ledger, promoted, expected)
    row = roll_back(ledger, replaced=c.id)
    assert roll_back(ledger, replaced=c.id) == row
    assert ledger.champion("electricity") == b
    with pytest.raises(ConflictError, match="the champion is"):
        roll_back(ledger, replaced=a.id)


def test_a_rollback_to_a_damaged_release_is_refused(ledger: Ledger, release: MakeRelease) -> None:
    a, b = release("a"), release("b")
    commit(ledger, a, None)
    commit(ledger, b, a.id)
    damage(a)
    with pytest.raises(IntegrityError):
        roll_back(ledger)
    assert ledger.champion("electricity") == b


def test_a_rollback_without_a_promotion_is_a_conflict(ledger: Ledger) -> None:
    with pytest.raises(ConflictError, match="nothing was ever promoted"):
        roll_back(ledger)


def test_only_a_person_promotes_a_rolled_back_release_again(ledger: Ledger, release: MakeRelease) -> None:
    a, b = release("a"), release("b")
    commit(ledger, a, None)
    commit(ledger, b, a.id)
    roll_back(ledger)
    with pytest.raises(ConflictError, match="rolled back by anna"):
        commit(ledger, b, a.id)
    assert commit(ledger, b, a.id, actor="anna", reason="it was the network", override=True).release == b
