"""Promotion: the gate's word is carried out and nothing else, unless a person says so and why; and the way back."""

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


def commit(ledger: Ledger, one: Release, expected: str | None, **more: Any) -> Promotion:
    settings: dict[str, Any] = {"verdict": PASSED, "actor": "pipeline", "reason": "drift"} | more
    return promote(ledger, one, expected=expected, now=NOW, **settings)


def back(ledger: Ledger, **more: Any) -> Promotion:
    return rollback(ledger, "electricity", now=NOW, actor="anna", reason="complaints", **more)


def damage(one: Release) -> None:
    path = Path(one.bundles[0].uri) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def test_a_passed_release_is_promoted_and_again_is_the_same_row(ledger: Ledger, release: MakeRelease) -> None:
    a = release("a")
    row = commit(ledger, a, None)
    assert (row.action, row.verdict, row.actor, row.reason, row.at) == ("promote", PASSED, "pipeline", "drift", NOW)
    assert commit(ledger, a, None) == row
    assert ledger.champion("electricity") == a


@pytest.mark.parametrize("word", ["hold", "reject"])
def test_what_the_gate_did_not_pass_is_refused(ledger: Ledger, release: MakeRelease, word: Any) -> None:
    with pytest.raises(GateError, match=rf"the gate says {word}: slice 'night' fell"):
        commit(ledger, release("a"), None, verdict=Verdict(word=word, reasons=("slice 'night' fell",)), actor="anna")
    assert ledger.champion("electricity") is None


def test_a_person_overrides_the_gate_on_record(ledger: Ledger, release: MakeRelease) -> None:
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


def test_rollback_goes_back_one_at_a_time(ledger: Ledger, release: MakeRelease) -> None:
    a, b, c = (release(name) for name in "abc")
    for one, expected in ((a, None), (b, a.id), (c, b.id)):
        commit(ledger, one, expected)
    row = back(ledger)
    assert (row.action, row.release, row.previous, row.actor) == ("rollback", b, c.id, "anna")
    assert back(ledger).release == a
    with pytest.raises(ConflictError, match="no champion to go back to"):
        back(ledger)
    assert ledger.verify_chain("electricity") == []


def test_a_rollback_asked_again_goes_back_once(ledger: Ledger, release: MakeRelease) -> None:
    a, b, c = (release(name) for name in "abc")
    for one, expected in ((a, None), (b, a.id), (c, b.id)):
        commit(ledger, one, expected)
    row = back(ledger, leave=c.id)
    assert back(ledger, leave=c.id) == row
    assert ledger.champion("electricity") == b
    with pytest.raises(ConflictError, match="the champion is"):
        back(ledger, leave=a.id)


def test_a_rollback_never_puts_back_a_damaged_release(ledger: Ledger, release: MakeRelease) -> None:
    a, b = release("a"), release("b")
    commit(ledger, a, None)
    commit(ledger, b, a.id)
    damage(a)
    with pytest.raises(IntegrityError):
        back(ledger)
    assert ledger.champion("electricity") == b


def test_nothing_to_roll_back(ledger: Ledger) -> None:
    with pytest.raises(ConflictError, match="nothing was ever promoted"):
        back(ledger)


def test_a_person_promotes_again_what_was_rolled_back(ledger: Ledger, release: MakeRelease) -> None:
    a, b = release("a"), release("b")
    commit(ledger, a, None)
    commit(ledger, b, a.id)
    back(ledger)
    with pytest.raises(ConflictError, match="rolled back by anna"):
        commit(ledger, b, a.id)
    assert commit(ledger, b, a.id, actor="anna", reason="it was the network", override=True).release == b
