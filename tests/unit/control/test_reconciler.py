"""The reconciler, round by round, against stand-ins for the Kubernetes API and serving over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from kubernetes import client as kubernetes

from evermodel import storage
from evermodel.control import actions
from evermodel.control.rollout.rayservice import RayService
from evermodel.control.rollout.reconciler import Reconciler
from evermodel.control.rollout.serve_config import configured_releases
from evermodel.control.service import ServingClient
from evermodel.errors import EvermodelError
from evermodel.execution.kubernetes_api import KubernetesApi
from evermodel.records import Release
from evermodel.workflow import Project
from tests.support.ledger_history import HELD_RUN, NAME
from tests.support.waiting import wait_until
from tests.unit.control.cluster_stand_in import CONFIG, ApiServer, Serving, serve, weights
from tests.unit.control.control_cases import BrokenLedger, ControlHarness, bearer


@dataclass
class Cluster:
    """A control service, the stand-ins, and reconcilers between them. A test moves the clock."""

    control: ControlHarness
    api: ApiServer
    serving: Serving
    urls: tuple[str, str]
    seconds: float = 0.0
    reconcilers: list[Reconciler] = field(default_factory=list)

    def rayservice(self, name: str = "evermodel-serving") -> RayService:
        connection = kubernetes.ApiClient(kubernetes.Configuration(host=self.urls[0]))
        return RayService(KubernetesApi(connection, "live"), name)

    def start_reconciler(self, **options: Any) -> Reconciler:
        """A new reconciler, as a restarted service has it. `run_rounds` uses the newest."""
        reconciler = Reconciler(
            self.control.service,
            self.rayservice(),
            ServingClient(self.urls[1]).status,
            deadline=60,
            monotonic=lambda: self.seconds,
            **options,
        )
        self.reconcilers.append(reconciler)
        return reconciler

    def run_rounds(self, count: int, *, every: float = 2.0) -> None:
        for _ in range(count):
            self.reconcilers[-1].reconcile()
            self.seconds += every
            self.control.now += timedelta(seconds=every)

    @property
    def champion(self) -> Release:
        champion = self.control.service.ledger.champion(NAME)
        assert champion is not None
        return champion

    @property
    def configured(self) -> str | None:
        return configured_releases(self.api.config)[NAME]

    def promote(self) -> Release:
        actions.promote(self.control.service, NAME, HELD_RUN, actor="anna", reason="better", override=True)
        return self.champion


@pytest.fixture
def cluster(project: Project) -> Iterator[Cluster]:
    api = ApiServer()
    serving = Serving(api)
    with serve(api) as api_url, serve(serving) as serving_url:
        yield Cluster(ControlHarness(project), api, serving, (api_url, serving_url))


@pytest.fixture
def live(cluster: Cluster) -> Cluster:
    """A cluster whose champion is live on both replicas."""
    cluster.start_reconciler()
    cluster.run_rounds(1)
    cluster.serving.load_config()
    cluster.run_rounds(1)
    assert cluster.api.state == {
        "good": {"release": cluster.champion.id, "uri": f"{cluster.champion.home}/release.json"}
    }
    return cluster


def test_the_champion_is_configured_and_good_once_it_is_live_on_all_replicas(cluster: Cluster) -> None:
    reconciler = cluster.start_reconciler()
    cluster.run_rounds(1)
    assert cluster.configured == f"{cluster.champion.home}/release.json"
    assert weights(cluster.api.config) == {"order": 1.0, "revenue": 0.1}
    assert Release.from_json(storage.read_text(cluster.configured)) == cluster.champion
    cluster.serving.load_config(0)
    cluster.run_rounds(3)
    assert "rolling" in cluster.api.state and reconciler.lag()[NAME] > 0, "one of the two replicas is not live"
    cluster.serving.load_config(1)
    cluster.run_rounds(1)
    assert "rolling" not in cluster.api.state and reconciler.lag() == {NAME: 0.0}
    written = len(cluster.api.patches)
    cluster.run_rounds(3)
    assert len(cluster.api.patches) == written, "an unchanged config is not written again"


def test_a_promotion_and_a_rollback_are_rolled_out(live: Cluster) -> None:
    before = live.champion
    after = live.promote()
    live.run_rounds(1)
    assert live.configured == f"{after.home}/release.json"
    live.serving.load_config()
    live.run_rounds(1)
    actions.rollback(live.control.service, NAME, actor="anna", reason="x")
    live.run_rounds(1)
    assert live.configured == f"{before.home}/release.json"


def test_a_missing_release_file_is_written(live: Cluster, project: Project) -> None:
    after = live.promote()
    text = storage.read_text(f"{after.home}/release.json")
    storage.delete_file(f"{after.home}/release.json")
    live.run_rounds(1)
    assert storage.read_text(f"{after.home}/release.json") == text


def test_a_release_that_fails_to_load_is_taken_back(live: Cluster) -> None:
    before, after = live.champion, live.promote()
    live.serving.broken.add(after.id)
    live.run_rounds(1)
    live.serving.load_config()
    live.run_rounds(4, every=6)
    assert live.configured == f"{before.home}/release.json"
    live.serving.load_config()
    (error,) = live.control.service.ledger.errors(NAME)
    assert error.where == "reconciler" and after.id in error.message and "sha256 differs" in error.message
    assert live.reconcilers[-1].failed() == {NAME: 1} and live.reconcilers[-1].lag()[NAME] > 0
    live.run_rounds(5, every=60)
    live.start_reconciler()  # a restarted service knows it, too
    live.run_rounds(5)
    assert live.configured == f"{before.home}/release.json" and len(live.control.service.ledger.errors(NAME)) == 1
    assert live.champion == after, "the reconciler does not change the ledger"


def test_a_failed_release_is_tried_again_on_request(live: Cluster) -> None:
    after = live.promote()
    live.serving.broken.add(after.id)
    live.run_rounds(1)
    live.serving.load_config()
    live.run_rounds(4, every=6)
    live.serving.load_config()
    live.serving.broken.clear()
    live.reconcilers[-1].retry(NAME)
    live.run_rounds(1)
    live.serving.load_config()
    live.run_rounds(1)
    assert live.configured == f"{after.home}/release.json" and live.reconcilers[-1].failed() == {NAME: 0}


def test_the_api_requests_a_retry(project: Project, tokens: Any) -> None:
    retried: list[str] = []

    class Rollout:
        def retry(self, name: str) -> None:
            retried.append(name)

        def lag(self) -> dict[str, float]:
            return {NAME: 4.5}

        def failed(self) -> dict[str, int]:
            return {NAME: 1}

    control = ControlHarness(project, tokens, rollout=Rollout())
    client = control.client(**bearer("ops"))
    assert client.post(f"/api/v1/{NAME}/retry-rollout", json={"reason": "the disk is repaired"}).status_code == 202
    assert retried == [NAME] and "the disk is repaired" in control.service.ledger.errors(NAME)[-1].message
    text = client.get("/metrics").text
    assert f'evermodel_projection_lag_seconds{{use_case="{NAME}"}} 4.5' in text
    assert f'evermodel_projection_failed{{use_case="{NAME}"}} 1.0' in text


def test_a_release_that_hangs_is_taken_back_at_the_deadline(live: Cluster) -> None:
    before, after = live.champion, live.promote()
    live.run_rounds(4, every=15)
    assert live.configured == f"{after.home}/release.json", "not yet: 45 s"
    live.run_rounds(3, every=15)
    assert live.configured == f"{before.home}/release.json"
    assert "not live on all replicas within 60 s" in live.control.service.ledger.errors(NAME)[0].message


def test_an_outage_of_serving_fails_no_release(live: Cluster) -> None:
    after = live.promote()
    live.run_rounds(1)
    live.serving.down = True
    live.run_rounds(10, every=20)
    assert live.configured == f"{after.home}/release.json"
    live.serving.down = False
    live.serving.load_config()
    live.run_rounds(1)
    assert live.api.state["good"]["release"] == after.id


def test_a_restarted_reconciler_knows_what_to_put_back(live: Cluster) -> None:
    before, after = live.champion, live.promote()
    live.serving.broken.add(after.id)
    live.run_rounds(1)
    live.start_reconciler()
    live.serving.load_config()
    live.run_rounds(4, every=6)
    assert live.configured == f"{before.home}/release.json"


def test_a_concurrent_write_is_neither_lost_nor_overwritten(live: Cluster) -> None:
    after = live.promote()
    changed = live.api.config.replace("revenue: 0.1", "revenue: 0.3")
    edits = iter([changed])

    def interfere() -> None:
        if (text := next(edits, None)) is not None:
            live.api.edit(text)

    live.api.before_patch = interfere
    live.run_rounds(1)
    assert live.api.conflicts == 1
    assert live.configured == f"{after.home}/release.json" and weights(live.api.config)["revenue"] == 0.3


def test_a_config_written_by_an_upgrade_gets_its_champion_again(live: Cluster) -> None:
    live.api.edit(CONFIG)
    live.run_rounds(1)
    assert live.configured == f"{live.champion.home}/release.json"


def test_it_continues_after_an_outage_of_the_api_server_or_the_ledger(
    live: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = live.promote()
    live.api.down = True
    with pytest.raises(ConnectionError):
        live.run_rounds(1)
    assert live.reconcilers[-1].lag()[NAME] >= 0
    live.api.down = False
    with monkeypatch.context() as patch, pytest.raises(OSError, match="ledger"):
        patch.setattr(live.control.service, "ledger", BrokenLedger(OSError("the ledger is down")))
        live.run_rounds(1)
    live.run_rounds(1)
    assert live.configured == f"{after.home}/release.json"


def test_an_error_is_recorded_once_the_ledger_accepts_it(live: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    after = live.promote()
    live.serving.broken.add(after.id)
    live.run_rounds(1)
    live.serving.load_config()

    def fail(*_: object, **__: object) -> None:
        raise OSError("the ledger is down")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="is down"):
        patch.setattr(live.control.service.ledger, "record_error", fail)
        live.run_rounds(4, every=6)
    live.run_rounds(1)
    assert len(live.control.service.ledger.errors(NAME)) == 1


def test_its_threads_survive_outages(cluster: Cluster) -> None:
    failures: list[str] = []

    def fail(_project: Project, name: str) -> None:
        failures.append(name)
        raise OSError("mlflow is down")

    cluster.control.service.sync_aliases = fail
    cluster.api.down = True
    reconciler = cluster.start_reconciler(interval=0.02, alias_interval=0.02)
    reconciler.start()
    try:
        wait_until(lambda: cluster.api.refused > 1, 20, "no round")
        cluster.api.down = False
        wait_until(lambda: cluster.configured, 20, "no release is configured")
        cluster.serving.load_config()
        wait_until(lambda: "good" in cluster.api.state and len(failures) > 1, 20, "the release is not live")
    finally:
        reconciler.stop()
    assert cluster.api.state["good"]["release"] == cluster.champion.id


def test_a_missing_rayservice_is_reported(live: Cluster) -> None:
    live.api.object["metadata"]["name"] = "other"
    with pytest.raises(EvermodelError, match="no RayService nothing in namespace live"):
        live.rayservice("nothing").read()
