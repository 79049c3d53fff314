"""The projector against a Kubernetes API and a serving that are there over HTTP, round by round."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from evermodel import storage
from evermodel.control import actions
from evermodel.control.rollout.rayservice import RayService
from evermodel.control.rollout.reconciler import Reconciler
from evermodel.control.rollout.transitions import releases
from evermodel.control.service import asks_serving
from evermodel.errors import EvermodelError
from evermodel.execution.kubernetes_api import KubernetesApi
from evermodel.records import Release
from evermodel.workflow import Project
from tests.support.ledger_history import HELD_RUN, NAME
from tests.unit.control.cluster_stand_in import CONFIG, ApiServer, Serving, serve, weights
from tests.unit.control.control_cases import Desk, bearer


@dataclass
class Stage:
    """A ledger, a cluster and a projector between them, whose clock a test moves."""

    desk: Desk
    api: ApiServer
    serving: Serving
    urls: tuple[str, str]
    ticks: float = 0.0
    projectors: list[Reconciler] = field(default_factory=list)

    def projector(self) -> Reconciler:
        from kubernetes import client

        connection = client.ApiClient(client.Configuration(host=self.urls[0]))
        service = RayService(KubernetesApi(connection, "live"), "evermodel-serving")
        made = Reconciler(self.desk.service, service, asks_serving(self.urls[1]), deadline=60, ticks=lambda: self.ticks)
        self.projectors.append(made)
        return made

    def rounds(self, count: int, *, every: float = 2.0) -> None:
        for _ in range(count):
            self.projectors[-1].look()
            self.ticks += every
            self.desk.now += timedelta(seconds=every)

    @property
    def champion(self) -> Release:
        found = self.desk.service.ledger.champion(NAME)
        assert found is not None
        return found

    @property
    def configured(self) -> str | None:
        return releases(self.api.config)[NAME]

    def promote(self) -> Release:
        actions.promote(self.desk.service, NAME, HELD_RUN, actor="anna", reason="better", override=True)
        return self.champion


@pytest.fixture
def stage(project: Project) -> Iterator[Stage]:
    api = ApiServer()
    serving = Serving(api)
    with serve(api) as first, serve(serving) as second:
        yield Stage(Desk(project), api, serving, (first, second))


@pytest.fixture
def live(stage: Stage) -> Stage:
    """With the champion live on both replicas."""
    stage.projector()
    stage.rounds(1)
    stage.serving.settle()
    stage.rounds(1)
    assert stage.api.notes == {"good": {"release": stage.champion.id, "uri": f"{stage.champion.home}/release.json"}}
    return stage


def test_the_champion_is_named_and_kept_once_it_is_live_everywhere(stage: Stage) -> None:
    projector = stage.projector()
    stage.rounds(1)
    assert stage.configured == f"{stage.champion.home}/release.json"
    assert weights(stage.api.config) == {"order": 1.0, "revenue": 0.1}
    assert Release.from_json(storage.read_text(stage.configured)) == stage.champion
    stage.serving.settle(0)
    stage.rounds(3)
    assert "rolling" in stage.api.notes and projector.lag()[NAME] > 0, "one replica of two isn't live"
    stage.serving.settle(1)
    stage.rounds(1)
    assert "rolling" not in stage.api.notes and projector.lag() == {NAME: 0.0}
    written = len(stage.api.patches)
    stage.rounds(3)
    assert len(stage.api.patches) == written, "what is so isn't written again"


def test_a_promotion_and_a_rollback_follow(live: Stage) -> None:
    before = live.champion
    after = live.promote()
    live.rounds(1)
    assert live.configured == f"{after.home}/release.json"
    live.serving.settle()
    live.rounds(1)
    actions.rollback(live.desk.service, NAME, actor="anna", reason="x")
    live.rounds(1)
    assert live.configured == f"{before.home}/release.json"


def test_release_json_is_written_where_it_is_not_there(live: Stage, project: Project) -> None:
    after = live.promote()
    text = storage.read_text(f"{after.home}/release.json")
    storage.delete_file(f"{after.home}/release.json")
    live.rounds(1)
    assert storage.read_text(f"{after.home}/release.json") == text


def test_a_release_that_serving_does_not_take_is_taken_back(live: Stage) -> None:
    before, after = live.champion, live.promote()
    live.serving.broken.add(after.id)
    live.rounds(1)
    live.serving.settle()
    live.rounds(4, every=6)
    assert live.configured == f"{before.home}/release.json"
    live.serving.settle()
    (error,) = live.desk.service.ledger.errors(NAME)
    assert error.where == "projector" and after.id in error.message and "sha256 differs" in error.message
    assert live.projectors[-1].failed() == {NAME: 1} and live.projectors[-1].lag()[NAME] > 0
    live.rounds(5, every=60)
    live.projector()  # a service that starts anew knows it too
    live.rounds(5)
    assert live.configured == f"{before.home}/release.json" and len(live.desk.service.ledger.errors(NAME)) == 1
    assert live.champion == after, "the ledger's word isn't the projector's to change"


def test_it_is_tried_again_when_somebody_asks(live: Stage) -> None:
    after = live.promote()
    live.serving.broken.add(after.id)
    live.rounds(1)
    live.serving.settle()
    live.rounds(4, every=6)
    live.serving.settle()
    live.serving.broken.clear()
    live.projectors[-1].again(NAME)
    live.rounds(1)
    live.serving.settle()
    live.rounds(1)
    assert live.configured == f"{after.home}/release.json" and live.projectors[-1].failed() == {NAME: 0}


def test_the_api_asks_for_another_try(project: Project, tokens: Any) -> None:
    asked: list[str] = []

    class Projection:
        def again(self, name: str) -> None:
            asked.append(name)

        def lag(self) -> dict[str, float]:
            return {NAME: 4.5}

        def failed(self) -> dict[str, int]:
            return {NAME: 1}

    desk = Desk(project, tokens, projection=Projection())
    client = desk.client(**bearer("ops"))
    assert client.post(f"/api/v1/{NAME}/project", json={"reason": "the disk is mended"}).status_code == 202
    assert asked == [NAME] and "the disk is mended" in desk.service.ledger.errors(NAME)[-1].message
    text = client.get("/metrics").text
    assert f'evermodel_projection_lag_seconds{{use_case="{NAME}"}} 4.5' in text
    assert f'evermodel_projection_failed{{use_case="{NAME}"}} 1.0' in text


def test_a_load_that_hangs_is_taken_back_at_the_deadline(live: Stage) -> None:
    before, after = live.champion, live.promote()
    live.rounds(4, every=15)
    assert live.configured == f"{after.home}/release.json", "not yet: 45 s"
    live.rounds(3, every=15)
    assert live.configured == f"{before.home}/release.json"
    assert "not live on all replicas within 60 s" in live.desk.service.ledger.errors(NAME)[0].message


def test_an_outage_of_serving_is_no_verdict(live: Stage) -> None:
    after = live.promote()
    live.rounds(1)
    live.serving.down = True
    live.rounds(10, every=20)
    assert live.configured == f"{after.home}/release.json"
    live.serving.down = False
    live.serving.settle()
    live.rounds(1)
    assert live.api.notes["good"]["release"] == after.id


def test_who_takes_over_in_the_middle_knows_what_to_put_back(live: Stage) -> None:
    before, after = live.champion, live.promote()
    live.serving.broken.add(after.id)
    live.rounds(1)
    live.projector()
    live.serving.settle()
    live.rounds(4, every=6)
    assert live.configured == f"{before.home}/release.json"


def test_somebody_else_writing_meanwhile_is_neither_lost_nor_overwritten(live: Stage) -> None:
    after = live.promote()
    other = live.api.config.replace("revenue: 0.1", "revenue: 0.3")
    edits = iter([other])

    def interfere() -> None:
        if (text := next(edits, None)) is not None:
            live.api.edit(text)

    live.api.before_patch = interfere
    live.rounds(1)
    assert live.api.conflicts == 1
    assert live.configured == f"{after.home}/release.json" and weights(live.api.config)["revenue"] == 0.3


def test_a_config_that_an_upgrade_wrote_gets_its_champion_again(live: Stage) -> None:
    live.api.edit(CONFIG)
    live.rounds(1)
    assert live.configured == f"{live.champion.home}/release.json"


def test_whatever_is_down_it_goes_on_later(live: Stage) -> None:
    after = live.promote()
    live.api.down = True
    with pytest.raises(ConnectionError):
        live.rounds(1)
    assert live.projectors[-1].lag()[NAME] >= 0
    live.api.down = False

    class Down:
        def __getattr__(self, name: str) -> Any:
            raise OSError("the ledger is away")

    whole, live.desk.service._ledger = live.desk.service.ledger, Down()  # type: ignore[assignment]
    with pytest.raises(OSError, match="ledger"):
        live.rounds(1)
    live.desk.service._ledger = whole
    live.rounds(1)
    assert live.configured == f"{after.home}/release.json"


def test_an_error_waits_for_the_ledger_to_take_it(live: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    after = live.promote()
    live.serving.broken.add(after.id)
    live.rounds(1)
    live.serving.settle()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="away"):
        patch.setattr(live.desk.service.ledger, "record_error", lambda *_, **__: (_ for _ in ()).throw(OSError("away")))
        live.rounds(4, every=6)
    live.rounds(1)
    assert len(live.desk.service.ledger.errors(NAME)) == 1


def test_its_thread_lives_through_outages_and_a_registry_that_is_dead(stage: Stage) -> None:
    from time import monotonic, sleep

    def dead(_project: Project, _name: str) -> None:
        raise OSError("mlflow is away")

    stage.desk.service.aliases = dead
    stage.api.down = True
    projector = stage.projector()
    projector._threads[0]._args = (projector.look, 0.02)  # type: ignore[attr-defined]
    projector._threads[1]._args = (projector.alias, 0.02)  # type: ignore[attr-defined]
    projector.start()
    sleep(0.1)
    stage.api.down = False
    end = monotonic() + 20
    while stage.configured is None and monotonic() < end:
        sleep(0.02)
    stage.serving.settle()
    while "good" not in stage.api.notes and monotonic() < end:
        sleep(0.02)
    projector.stop()
    assert stage.api.notes["good"]["release"] == stage.champion.id


def test_no_rayservice_is_said(live: Stage) -> None:
    live.api.object["metadata"]["name"] = "other"
    from kubernetes import client

    connection = client.ApiClient(client.Configuration(host=live.urls[0]))
    with pytest.raises(EvermodelError, match="no RayService nothing in namespace live"):
        RayService(KubernetesApi(connection, "live"), "nothing").read()
