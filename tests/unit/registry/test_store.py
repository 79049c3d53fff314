"""The registry holds each release once, and its aliases follow the ledger."""

import json
from pathlib import Path
from typing import Any

import pytest

from evermodel.errors import ConflictError
from evermodel.ledger import Ledger
from evermodel.records import Release, Verdict
from evermodel.registry.store import TAG, ModelRegistry
from evermodel.use_case import UseCase
from tests.unit.registry.small_releases import PASSED, WINDOW, MakeRelease, manifest, report

NOW = WINDOW.end


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, because its first start takes seconds. Each test has a use case of its own in it."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/state/mlflow.db"


@pytest.fixture
def registry(uri: str) -> ModelRegistry:
    return ModelRegistry(uri)


@pytest.fixture
def case(electricity: UseCase, request: pytest.FixtureRequest) -> UseCase:
    return electricity.model_copy(update={"name": request.node.name.partition("[")[0]})


def for_case(case: UseCase, release: Release) -> Release:
    return release.model_copy(update={"use_case": case.name})


def commit(ledger: Ledger, release: Release, expected: str | None, action: Any = "promote") -> None:
    ledger.promote(release, expected=expected, verdict=PASSED, action=action, reason="r", actor="test", now=NOW)


def test_a_release_is_logged_once_with_all_known_figures(
    registry: ModelRegistry, case: UseCase, release: MakeRelease, capfd: pytest.CaptureFixture[str]
) -> None:
    a = for_case(case, release("a", objectives=("up",)))
    run_id = registry.log_release(case, a, [manifest("a")], report(a))
    assert registry.log_release(case, a, [manifest("a")], report(a)) == run_id
    assert ModelRegistry(registry.uri).log_release(case, a, [manifest("a")], report(a)) == run_id
    client = registry.client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[TAG] == a.id
    assert run.data.params["up.row_digest"] == "a"
    assert json.loads(run.data.params["up.windows"])[0]["end"] == "2026-01-08T00:00:00Z"
    figures = {"accuracy": 0.8, "champion.accuracy": 0.7, "baseline.majority": 0.6, "up.final_loss": 0.6}
    assert figures.items() <= run.data.metrics.items()
    assert "auc" not in run.data.metrics, "unknown figures aren't logged"
    assert "baseline.random" not in run.data.metrics
    names = {item.path for item in client.list_artifacts(run_id)}
    assert names == {"release.json", "report.json", "card.md", "manifests"}
    (version,) = client.search_model_versions(f"name = '{case.name}'")
    assert (version.source, version.run_id, version.tags["bundle.up"]) == (
        a.bundles[0].uri,
        run_id,
        a.bundles[0].digest,
    )
    assert capfd.readouterr() == ("", ""), "MLflow's first start prints nothing"


def test_a_release_of_several_objectives_is_one_version(
    registry: ModelRegistry, case: UseCase, release: MakeRelease
) -> None:
    a = for_case(case, release("a", objectives=("order", "revenue")))
    registry.log_release(case, a, [manifest("a", "order"), manifest("a", "revenue")], report(a))
    (version,) = registry.client.search_model_versions(f"name = '{case.name}'")
    assert version.source == a.home
    assert {"bundle.order", "bundle.revenue"} <= set(version.tags)


def test_an_unfinished_run_is_finished(
    registry: ModelRegistry, case: UseCase, release: MakeRelease, tmp_path: Path
) -> None:
    a = for_case(case, release("a"))
    client = registry.client
    experiment = client.create_experiment(case.name, artifact_location=tmp_path.as_uri())
    started = client.create_run(experiment, tags={TAG: a.id})
    assert registry.log_release(case, a, [manifest("a")], report(a)) == started.info.run_id
    assert registry.client.get_run(started.info.run_id).info.status == "FINISHED"


def test_files_lie_beside_the_database(registry: ModelRegistry, case: UseCase, release: MakeRelease) -> None:
    a = for_case(case, release("a"))
    run_id = registry.log_release(case, a, [manifest("a")], report(a))
    folder = Path(registry.uri.removeprefix("sqlite:///")).parent
    assert list((folder / "mlartifacts" / case.name).rglob(f"{run_id}/artifacts/report.json"))


def test_the_aliases_follow_the_ledger(
    registry: ModelRegistry, case: UseCase, ledger: Ledger, release: MakeRelease
) -> None:
    assert registry.sync_aliases(ledger, case.name) == registry.aliases(case.name) == {}
    a = for_case(case, release("a"))
    b, c = for_case(case, release("b", a.id)), for_case(case, release("c", a.id))
    ledger.record_release(a, now=NOW)
    assert registry.sync_aliases(ledger, case.name) == {"challenger": a.id}
    commit(ledger, a, None)
    assert registry.sync_aliases(ledger, case.name) == {"champion": a.id}
    ledger.record_release(b, now=NOW, verdict=PASSED)
    ledger.record_release(c, now=NOW, verdict=Verdict(word="hold"))
    assert registry.sync_aliases(ledger, case.name) == {"champion": a.id, "challenger": c.id}
    commit(ledger, b, a.id)
    assert registry.sync_aliases(ledger, case.name) == {"champion": b.id, "previous": a.id}
    commit(ledger, a, b.id, "rollback")
    assert registry.sync_aliases(ledger, case.name) == registry.aliases(case.name)
    assert registry.aliases(case.name)["champion"] == a.id
    model = registry.client.get_registered_model(case.name)
    assert model.tags["evermodel.chain"] == f"3 {ledger.promotions(case.name)[-1].chain}"


def test_wrong_aliases_are_corrected(
    registry: ModelRegistry, case: UseCase, ledger: Ledger, release: MakeRelease
) -> None:
    a = for_case(case, release("a"))
    b = for_case(case, release("b", a.id))
    commit(ledger, a, None)
    commit(ledger, b, a.id)
    registry.log_release(case, b, [manifest("b")], report(b))
    client = registry.client
    foreign = client.create_model_version(case.name, "/elsewhere", await_creation_for=0)
    client.set_registered_model_alias(case.name, "champion", foreign.version)
    client.set_registered_model_alias(case.name, "challenger", foreign.version)
    client.set_registered_model_alias(case.name, "mine", foreign.version)
    assert registry.aliases(case.name) == {"champion": "version 2", "challenger": "version 2"}
    assert registry.sync_aliases(ledger, case.name) == {"champion": b.id, "previous": a.id}
    assert "mine" in client.get_registered_model(case.name).aliases, "a person's own alias stays"


def test_aliases_that_somebody_else_changes_all_the_time_are_a_conflict(
    registry: ModelRegistry, case: UseCase, ledger: Ledger, release: MakeRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(ledger, for_case(case, release("a")), None)
    monkeypatch.setattr(registry.client, "set_registered_model_alias", lambda *_: None)
    with pytest.raises(ConflictError, match="don't stay"):
        registry.sync_aliases(ledger, case.name)
