from pathlib import Path
from threading import Event
from typing import Any

import pytest
from pydantic import ValidationError

from evermodel.errors import IntegrityError, ServingError
from evermodel.records import Release
from evermodel.serving.model_manager import ChampionWatcher, ModelManager
from evermodel.serving.predictor import GivenFeatures
from tests.unit.serving.serving_cases import NOW, Lines, guide, release, shop, view

FIRST, SECOND, BROKEN, NAN = (release(shop(), digest=digest) for digest in "abcd")


class Shelf:
    """Opens releases: the third's bytes are not what its digest says, the fourth answers NaN."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, wanted: Release) -> Lines:
        self.opened.append(wanted.id)
        if wanted.id == BROKEN.id:
            raise IntegrityError("weights.safetensors: sha256 is not its manifest's")
        price = float("nan") if wanted.id == NAN.id else 1.0
        return Lines(wanted, {"buy": {"price": price}, "earn": {"price": 2 * price}})


def models(shelf: Shelf | None = None) -> ModelManager:
    return ModelManager(
        {"shop": shop()}, {"shop": GivenFeatures(shop(), {})}, opener=shelf or Shelf(), clock=lambda: NOW
    )


def config(live: Release | None, **more: Any) -> dict[str, Any]:
    part = {"release": live.model_dump(mode="json")} if live else {}
    return {"use_cases": {"shop": {**part, **more}}}


def score(live: ModelManager) -> float | None:
    predictor = live.get("shop")
    assert predictor is not None
    return predictor.predict([view()], now=NOW)[0].score


def test_a_config_makes_a_release_live() -> None:
    live = models()
    assert not live.status()["ready"]
    live.apply(config(FIRST))
    assert (live.champion("shop"), score(live)) == (FIRST.id, 10 + 0.5 * 20)
    assert live.status() == {
        "ready": True,
        "error": None,
        "use_cases": {
            "shop": {
                "release": FIRST.id,
                "weights": {"buy": 1.0, "earn": 0.5},
                "arms": {},
                "since": NOW.isoformat(),
                "error": None,
            }
        },
    }


def test_weights_change_without_loading() -> None:
    shelf = Shelf()
    live = models(shelf)
    live.apply(config(FIRST))
    live.apply(config(FIRST, weights={"buy": 0.0, "earn": 1.0}))
    assert (score(live), shelf.opened) == (20.0, [FIRST.id])


@pytest.mark.parametrize("bad", [BROKEN, NAN])
def test_what_cannot_be_loaded_changes_nothing_and_is_told(bad: Release) -> None:
    live = models()
    live.apply(config(FIRST))
    live.apply(config(bad))
    assert (live.champion("shop"), score(live), live.status()["ready"]) == (FIRST.id, 20.0, True)
    assert live.status()["use_cases"]["shop"]["error"]
    live.apply(config(SECOND))
    assert (live.champion("shop"), live.status()["use_cases"]["shop"]["error"]) == (SECOND.id, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"use_cases": {"shoop": {}}},
        {"use_case": {}},
        {"use_cases": {"shop": {"weights": {"buy": "much"}}}},
        config(FIRST, weights={"bye": 1.0}),
        config(FIRST, arms={"canary": {"release": BROKEN.model_dump(mode="json"), "share": 0.5}}),
        config(release(guide())),
    ],
)
def test_a_wrong_config_raises_only_while_nothing_is_live(bad: dict[str, Any]) -> None:
    with pytest.raises((ServingError, ValidationError, IntegrityError)):
        models().apply(bad)
    live = models()
    live.apply(config(FIRST))
    live.apply(bad)
    status = live.status()
    assert score(live) == 20.0 and status["ready"]
    assert status["error"] or status["use_cases"]["shop"]["error"]


def test_a_release_may_be_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text(FIRST.to_json())
    live = models()
    live.apply({"use_cases": {"shop": {"release": str(path)}}})
    assert live.champion("shop") == FIRST.id


def test_arms_are_live_beside_the_champion() -> None:
    live = models()
    live.apply(config(FIRST, arms={"canary": {"release": SECOND.model_dump(mode="json"), "share": 1.0}}))
    predictor = live.get("shop")
    assert predictor is not None
    assert {answer.arm for answer in predictor.predict([view()], now=NOW)} == {"canary"}
    assert live.status()["use_cases"]["shop"]["arms"]["canary"]["release"] == SECOND.id


class Board:
    """A ledger's champion, set by the test."""

    def __init__(self) -> None:
        self.now: Release | None = None
        self.down = False

    def champion(self, use_case: str) -> Release | None:
        if self.down:
            raise OSError("the ledger is gone")
        return self.now


def test_the_ledgers_champion_goes_live_and_back() -> None:
    board, shelf = Board(), Shelf()
    live = models(shelf)
    watch = ChampionWatcher(board, live, seconds=60)
    watch.look()
    assert live.get("shop") is None
    for wanted in (FIRST, SECOND, FIRST):  # the last is a rollback
        board.now = wanted
        watch.look()
        assert live.champion("shop") == wanted.id
    board.down = True
    watch.look()
    assert live.champion("shop") == FIRST.id
    assert "the ledger is gone" in live.status()["use_cases"]["shop"]["error"]


def test_the_ledgers_champion_is_kept_when_weights_change() -> None:
    board, live = Board(), models()
    board.now = SECOND
    live.apply(config(FIRST))
    ChampionWatcher(board, live, seconds=60).look()
    live.apply(config(FIRST, weights={"buy": 2.0, "earn": 0.0}))
    assert (live.champion("shop"), score(live)) == (SECOND.id, 20.0)


def test_a_champion_that_cannot_be_loaded_is_not_tried_at_every_look() -> None:
    board, shelf = Board(), Shelf()
    live = models(shelf)
    live.apply(config(FIRST))
    board.now = BROKEN
    watch = ChampionWatcher(board, live, seconds=60)
    for _ in range(100):
        watch.look()
    assert shelf.opened.count(BROKEN.id) == 8  # at looks 1, 2, 4, 8, 16, 32, 62 and 92
    board.now = SECOND
    watch.look()
    assert live.champion("shop") == SECOND.id


def test_a_champion_that_failed_in_a_busy_moment_is_live_at_the_next_look() -> None:
    busy = [False, True]  # popped from the end: busy once
    shelf = Shelf()

    def open_when_idle(wanted: Release) -> Lines:
        if wanted.id == SECOND.id and busy.pop():
            raise TimeoutError("busy")
        return shelf(wanted)

    board = Board()
    live = ModelManager({"shop": shop()}, {"shop": GivenFeatures(shop(), {})}, opener=open_when_idle, clock=lambda: NOW)
    live.apply(config(FIRST))
    board.now = SECOND
    watch = ChampionWatcher(board, live, seconds=60)
    watch.look()
    assert live.champion("shop") == FIRST.id
    watch.look()
    assert live.champion("shop") == SECOND.id


def test_a_load_that_hangs_is_given_up_and_the_next_config_goes_live() -> None:
    """Else the config that puts the good release back would wait behind it for ever."""
    shelf, stuck = Shelf(), Event()

    def opener(asked: Release) -> Lines:
        if asked.id == SECOND.id:
            stuck.wait()
        return shelf(asked)

    readers = {"shop": GivenFeatures(shop(), {})}
    live = ModelManager({"shop": shop()}, readers, opener=opener, clock=lambda: NOW, load_seconds=0.2)
    live.apply(config(FIRST))
    live.apply(config(SECOND))
    assert live.champion("shop") == FIRST.id and "wasn't loaded" in live.status()["use_cases"]["shop"]["error"]
    live.apply(config(FIRST, weights={"buy": 2.0, "earn": 0.0}))
    assert score(live) == 20.0 and live.status()["use_cases"]["shop"]["error"] is None
    stuck.set()


def test_health_is_a_prediction() -> None:
    live = models()
    live.check()
    live.apply(config(FIRST))
    live.check()
