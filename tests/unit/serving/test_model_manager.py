from pathlib import Path
from threading import Event
from typing import Any

import pytest
from pydantic import ValidationError

from evermodel.errors import IntegrityError, ServingError
from evermodel.records import Release
from evermodel.serving.model_manager import ChampionWatcher, ModelManager
from evermodel.serving.online_features import GivenFeatures
from tests.support.waiting import scaled
from tests.unit.serving.serving_cases import NOW, LinearModel, guide, release, shop, view

FIRST, SECOND, BROKEN, NAN = (release(shop(), digest=digest) for digest in "abcd")


class Opener:
    """Opens releases. BROKEN's bytes differ from its digest, and NAN's scores are NaN."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, wanted: Release) -> LinearModel:
        self.opened.append(wanted.id)
        if wanted.id == BROKEN.id:
            raise IntegrityError("weights.safetensors: sha256 is not its manifest's")
        price = float("nan") if wanted.id == NAN.id else 1.0
        return LinearModel(wanted, {"buy": {"price": price}, "earn": {"price": 2 * price}})


def make_manager(opener: Any = None, **options: Any) -> ModelManager:
    readers = {"shop": GivenFeatures(shop(), {})}
    return ModelManager({"shop": shop()}, readers, opener=opener or Opener(), clock=lambda: NOW, **options)


def config(wanted: Release | None, **settings: Any) -> dict[str, Any]:
    part = {"release": wanted.model_dump(mode="json")} if wanted else {}
    return {"use_cases": {"shop": {**part, **settings}}}


def score(manager: ModelManager) -> float | None:
    predictor = manager.get("shop")
    assert predictor is not None
    return predictor.predict([view()], now=NOW)[0].score


def test_a_config_starts_serving_a_release() -> None:
    manager = make_manager()
    assert not manager.status()["ready"]
    manager.apply(config(FIRST))
    assert (manager.champion("shop"), score(manager)) == (FIRST.id, 10 + 0.5 * 20)
    assert manager.status() == {
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
    opener = Opener()
    manager = make_manager(opener)
    manager.apply(config(FIRST))
    manager.apply(config(FIRST, weights={"buy": 0.0, "earn": 1.0}))
    assert (score(manager), opener.opened) == (20.0, [FIRST.id])


@pytest.mark.parametrize("bad", [BROKEN, NAN])
def test_a_release_that_cannot_be_loaded_changes_nothing_and_is_reported(bad: Release) -> None:
    manager = make_manager()
    manager.apply(config(FIRST))
    manager.apply(config(bad))
    assert (manager.champion("shop"), score(manager), manager.status()["ready"]) == (FIRST.id, 20.0, True)
    assert manager.status()["use_cases"]["shop"]["error"]
    manager.apply(config(SECOND))
    assert (manager.champion("shop"), manager.status()["use_cases"]["shop"]["error"]) == (SECOND.id, None)


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
def test_a_wrong_config_raises_only_if_no_model_is_served(bad: dict[str, Any]) -> None:
    with pytest.raises((ServingError, ValidationError, IntegrityError)):
        make_manager().apply(bad)
    manager = make_manager()
    manager.apply(config(FIRST))
    manager.apply(bad)
    status = manager.status()
    assert score(manager) == 20.0 and status["ready"]
    assert status["error"] or status["use_cases"]["shop"]["error"]


def test_a_config_may_name_the_file_of_a_release(tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text(FIRST.to_json())
    manager = make_manager()
    manager.apply({"use_cases": {"shop": {"release": str(path)}}})
    assert manager.champion("shop") == FIRST.id


def test_arms_are_served_beside_the_champion() -> None:
    manager = make_manager()
    manager.apply(config(FIRST, arms={"canary": {"release": SECOND.model_dump(mode="json"), "share": 1.0}}))
    predictor = manager.get("shop")
    assert predictor is not None
    assert {prediction.arm for prediction in predictor.predict([view()], now=NOW)} == {"canary"}
    assert manager.status()["use_cases"]["shop"]["arms"]["canary"]["release"] == SECOND.id


class FakeLedger:
    """A ledger whose champion the test sets."""

    def __init__(self) -> None:
        self.current: Release | None = None
        self.is_down = False

    def champion(self, use_case: str) -> Release | None:
        if self.is_down:
            raise OSError("the ledger is gone")
        return self.current


def test_the_watcher_follows_the_ledgers_champion_also_back() -> None:
    ledger, manager = FakeLedger(), make_manager()
    watcher = ChampionWatcher(ledger, manager, seconds=60)
    watcher.poll()
    assert manager.get("shop") is None
    for wanted in (FIRST, SECOND, FIRST):  # the last is a rollback
        ledger.current = wanted
        watcher.poll()
        assert manager.champion("shop") == wanted.id
    ledger.is_down = True
    watcher.poll()
    assert manager.champion("shop") == FIRST.id
    assert "the ledger is gone" in manager.status()["use_cases"]["shop"]["error"]


def test_the_ledgers_champion_stays_when_weights_change() -> None:
    ledger, manager = FakeLedger(), make_manager()
    ledger.current = SECOND
    manager.apply(config(FIRST))
    ChampionWatcher(ledger, manager, seconds=60).poll()
    manager.apply(config(FIRST, weights={"buy": 2.0, "earn": 0.0}))
    assert (manager.champion("shop"), score(manager)) == (SECOND.id, 20.0)


def test_a_champion_that_cannot_be_loaded_is_tried_at_fewer_and_fewer_polls() -> None:
    ledger, opener = FakeLedger(), Opener()
    manager = make_manager(opener)
    manager.apply(config(FIRST))
    ledger.current = BROKEN
    watcher = ChampionWatcher(ledger, manager, seconds=60)
    for _ in range(100):
        watcher.poll()
    assert opener.opened.count(BROKEN.id) == 8  # at polls 1, 2, 4, 8, 16, 32, 62 and 92
    ledger.current = SECOND
    watcher.poll()
    assert manager.champion("shop") == SECOND.id


def test_a_champion_that_failed_once_is_served_at_the_next_poll() -> None:
    fails = [False, True]  # popped from the end: the first try fails
    opener = Opener()

    def open_second_at_the_second_try(wanted: Release) -> LinearModel:
        if wanted.id == SECOND.id and fails.pop():
            raise TimeoutError("busy")
        return opener(wanted)

    ledger, manager = FakeLedger(), make_manager(open_second_at_the_second_try)
    manager.apply(config(FIRST))
    ledger.current = SECOND
    watcher = ChampionWatcher(ledger, manager, seconds=60)
    watcher.poll()
    assert manager.champion("shop") == FIRST.id
    watcher.poll()
    assert manager.champion("shop") == SECOND.id


def test_a_load_that_hangs_is_given_up_and_the_next_config_is_served() -> None:
    """Otherwise the config that restores the good release would wait behind it for ever."""
    opener, end = Opener(), Event()

    def open_second_never(wanted: Release) -> LinearModel:
        if wanted.id == SECOND.id:
            end.wait()
        return opener(wanted)

    manager = make_manager(open_second_never, load_seconds=scaled(1.0))
    manager.apply(config(FIRST))
    manager.apply(config(SECOND))
    assert manager.champion("shop") == FIRST.id
    assert "wasn't loaded" in manager.status()["use_cases"]["shop"]["error"]
    manager.apply(config(FIRST, weights={"buy": 2.0, "earn": 0.0}))
    assert score(manager) == 20.0 and manager.status()["use_cases"]["shop"]["error"] is None
    end.set()


def test_the_health_check_predicts() -> None:
    manager = make_manager()
    manager.check()
    manager.apply(config(FIRST))
    manager.check()
