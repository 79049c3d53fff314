"""Ray Serve under load: no request fails while the champion or the weights change, or a part is gone."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import yaml

from evermodel import storage
from evermodel.bundle import open_release
from evermodel.clock import micros
from evermodel.features.online_store import views as online_views
from evermodel.features.packed_store import PackedStore
from evermodel.ledger import Ledger
from evermodel.records import Release
from evermodel.scores import combine
from evermodel.serving.batch import predict_batch
from evermodel.serving.model_manager import ServingConfig
from evermodel.serving.request_log import RequestLog
from evermodel.use_case import UseCase, parse
from tests.reliability.served_shop import NOW, SHOP, make_release, view
from tests.support import ROOT
from tests.support.batch import read_batch
from tests.support.waiting import scaled, wait_until

# Ray itself warns about its imports, and leaves a socket to the garbage collector
_IGNORED = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
]


def with_ray(test: Any) -> Any:
    for mark in (pytest.mark.ray, *_IGNORED):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def shop() -> UseCase:
    return parse(SHOP, name="shop")


@pytest.fixture(scope="module")
def releases(shop: UseCase, tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    out = tmp_path_factory.mktemp("releases")
    return [make_release(shop, out, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def args(place: Path) -> Any:
    from evermodel.serving.deployments import AppArgs

    return AppArgs(
        use_cases={"shop": str(place / "shop.yaml")},
        state=str(place),
        ledger=f"sqlite:///{place}/ledger.db",
        online_store=str(place / "online.db"),
        poll_seconds=0.2,
        flush_rows=5,
        flush_seconds=60,
        drain_seconds=2.0,
    )


@pytest.fixture(scope="module")
def url(shop: UseCase, releases: list[Release], place: Path, args: Any) -> Iterator[str]:
    """Ray Serve with the shop. Its first release is champion; its online store knows item i1."""
    from evermodel.serving.deployments import start, stop

    (place / "shop.yaml").write_text(SHOP)
    store = PackedStore(place / "online.db")
    items = online_views(shop)[0]
    store.define(items.name, numbers=items.numbers, texts=items.texts)
    store.write(items.name, ["i1"], np.array([micros(NOW)]), np.array([[7.0]]), [[]])
    promote(place, releases[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_worker_niceness")  # other tests set it; here `start` must set it
        start(args, port=port)
    yield f"http://127.0.0.1:{port}"
    stop()


def promote(place: Path, release: Release) -> None:
    ledger = Ledger(f"sqlite:///{place}/ledger.db")
    champion = ledger.champion(release.use_case)
    ledger.record_release(release, now=NOW)
    ledger.promote(
        release,
        expected=champion.id if champion else None,
        action="promote",
        verdict=None,
        reason="a test",
        actor="test",
        now=NOW,
    )


class LoadClient:
    """Threads that send one request after the other, with a `pause` of seconds between; keeps every answer."""

    def __init__(self, url: str, *, threads: int, pause: float = 0.01) -> None:
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._url, self._pause, self._end = url, pause, Event()
        self._threads = [Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> "LoadClient":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=scaled(10)) as client:
            while not self._end.is_set():
                try:
                    response = client.post("/v1/shop/predict", json={"rows": [view()]})
                    response.raise_for_status()
                    self.answers.extend(response.json()["answers"])
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self._end.wait(self._pause)

    def wait_for_release(self, release: Release) -> None:
        """Until one of the last answers comes from the release."""
        self.wait_for_answers(lambda answers: any(answer["release"] == release.id for answer in answers[-50:]), 60)

    def wait_for_answers(self, condition: Callable[[list[dict[str, Any]]], bool], seconds: float) -> int:
        """Until the condition holds for the answers so far; their number."""
        return wait_until(
            lambda: len(answers) if condition(answers := list(self.answers)) else 0,
            seconds,
            lambda: f"last answers: {self.answers[-3:]} {self.failures[-1:]}",
        )


def predict(url: str, **values: Any) -> dict[str, Any]:
    """The answer for one row."""
    response = httpx.post(f"{url}/v1/shop/predict", json={"rows": [view(**values)]}, timeout=scaled(10))
    answer: dict[str, Any] = response.json()["answers"][0]
    return answer


@with_ray
def test_its_ray_workers_are_not_niced_and_a_slow_proxy_gets_more_time(url: str) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def read_settings() -> tuple[float, int]:  # in a process of the Ray that `start` started, like Serve's controller
        from ray.serve._private.constants import PROXY_READY_CHECK_TIMEOUT_S

        return float(PROXY_READY_CHECK_TIMEOUT_S), os.nice(0)

    assert ray.get(read_settings.remote(), timeout=scaled(60)) == (20, os.nice(0))


@with_ray
def test_a_new_champion_is_served_without_a_failed_request(url: str, place: Path, releases: list[Release]) -> None:
    with LoadClient(url, threads=4) as load:
        load.wait_for_release(releases[0])
        promote(place, releases[1])
        load.wait_for_release(releases[1])
        count = len(load.answers)
        load.wait_for_answers(lambda answers: len(answers) > count + 50, 60)
    assert load.failures == []
    assert not any(answer["fallback"] for answer in load.answers)
    assert {answer["release"] for answer in load.answers} == {releases[0].id, releases[1].id}


@with_ray
def test_the_log_has_every_answer_once(url: str, place: Path) -> None:
    with httpx.Client(base_url=url, timeout=scaled(10)) as client:
        ids = [f"once-{i}" for i in range(20)]
        for request_id in (*ids, *ids):
            client.post("/v1/shop/predict", json={"rows": [view()], "request_id": request_id}).raise_for_status()
    log = RequestLog(str(place / "shop" / "requests"))

    def logged() -> list[dict[str, Any]]:
        return [row for row in log.read().to_pylist() if row["prediction_id"].startswith("once-")]

    wait_until(lambda: len(logged()) >= 20, 10, lambda: f"{len(logged())} of 20 rows are in the log")
    rows = logged()
    assert sorted(row["prediction_id"] for row in rows) == sorted(f"{request_id}:0" for request_id in ids)
    assert {(row["item_views_1d"], row["position"]) for row in rows} == {(7.0, 1)}


@with_ray
@pytest.mark.slow
def test_a_redeployment_changes_weights_without_a_failed_request(url: str, args: Any, releases: list[Release]) -> None:
    from evermodel.serving.deployments import start

    before = predict(url)
    with LoadClient(url, threads=2) as load:
        load.wait_for_release(releases[1])
        port = int(url.rpartition(":")[2])
        start(args, port=port, user_config={"use_cases": {"shop": {"weights": {"buy": 3.0}}}})
        after = predict(url)
    assert after["score"] == pytest.approx(3 * before["score"]) and after["release"] == before["release"]
    assert load.failures == [] and not any(answer["fallback"] for answer in load.answers)


@with_ray
def test_a_broken_release_is_reported_and_changes_nothing(url: str, releases: list[Release]) -> None:
    from ray import serve

    broken = releases[2].model_dump(mode="json")
    broken["bundles"][0]["digest"] = "0" * 64
    handle = serve.get_deployment_handle("Models", app_name="evermodel")
    handle.reconfigure.remote(
        {"use_cases": {"shop": {"release": broken, "arms": {"canary": {"release": broken}}}}}
    ).result()
    ready = httpx.get(f"{url}/readyz")
    assert (ready.status_code, ready.json()["use_cases"]["shop"]["release"]) == (200, releases[1].id)
    assert "sha256" in ready.json()["use_cases"]["shop"]["error"]
    assert predict(url)["release"] == releases[1].id


@with_ray
def test_without_the_feature_store_the_answer_is_flagged(url: str, place: Path) -> None:
    for path in place.glob("online.db*"):
        path.rename(path.with_name("gone-" + path.name))
    answer = predict(url, item_id="i9")
    assert (answer["fallback"], answer["reason"], answer["source"], answer["score"]) == (
        True,
        "feature_store_error",
        "constant",
        0.125,
    )
    for path in place.glob("gone-online.db*"):
        path.rename(path.with_name(path.name.removeprefix("gone-")))


@with_ray
def test_bad_requests_get_a_code_and_a_field_through_the_proxy(url: str) -> None:
    response = httpx.post(f"{url}/v1/shop/predict", json={"rows": [view(price=-1)]})
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (422, "out_of_range", "rows[0].price")
    assert httpx.post(f"{url}/v1/shoop/predict", json={}).json()["code"] == "unknown_use_case"
    assert "evermodel_requests_total" in httpx.get(f"{url}/metrics").text


@with_ray
def test_a_batch_gives_as_many_rows_as_it_takes(url: str, shop: UseCase, releases: list[Release], place: Path) -> None:
    n = 1000
    rows = pa.table(
        {
            "row_id": np.arange(n),
            "position": np.ones(n, int),
            "price": np.linspace(0, 100, n),
            "stars": pa.nulls(n, pa.float64()),
            "device": ["web", "app"] * (n // 2),
            "hour": np.zeros(n),
            "item_views_1d": np.zeros(n),
        }
    )
    storage.write_table(place / "rows.parquet", rows)
    out = str(place / "scores")
    manifest = predict_batch(shop, releases[0], str(place / "rows.parquet"), out, batch_size=300)
    scored = read_batch(out)
    assert (manifest.rows_in, manifest.rows_out, scored["row_id"].to_pylist()) == (n, n, list(range(n)))
    expected = combine(open_release(releases[0]).scores(rows), releases[0].weights)
    assert np.array_equal(scored["score"].to_numpy(), expected.values)
    assert predict_batch(shop, releases[0], str(place / "rows.parquet"), out, batch_size=300) == manifest


@with_ray
def test_the_fallback_answers_for_a_killed_model_until_it_is_back(url: str, releases: list[Release]) -> None:
    import ray

    replicas = [
        actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if "#Models#" in actor["name"]
    ]
    with LoadClient(url, threads=2, pause=0.1) as load:  # the pause leaves CPU for the new model to start
        load.wait_for_release(releases[1])
        ray.kill(ray.get_actor(replicas[0], namespace="serve"))
        first = load.wait_for_answers(lambda answers: any(answer["fallback"] for answer in answers), 60)
        # Two threads: while only one request at a time may run again, the other's still falls back as `model_busy`.
        load.wait_for_answers(
            lambda answers: len(answers) > first + 20 and not any(answer["fallback"] for answer in answers[-20:]), 120
        )
    assert load.failures == []
    assert {answer["reason"] for answer in load.answers if answer["fallback"]} <= {
        "model_gone",
        "model_timeout",
        "model_busy",
    }


@with_ray
def test_a_clean_stop_writes_the_waiting_rows_of_the_log(url: str, place: Path) -> None:
    from ray import serve

    httpx.post(f"{url}/v1/shop/predict", json={"rows": [view()], "request_id": "the-last"}).raise_for_status()
    serve.shutdown()
    assert "the-last:0" in RequestLog(str(place / "shop" / "requests")).read()["prediction_id"].to_pylist()


@with_ray
@pytest.mark.parametrize("name", ["local", "cluster"])
def test_serve_and_the_app_accept_the_shipped_configs(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving.app import AppArgs

    path = ROOT / "serving" / "config" / f"{name}.yaml"
    application = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text())).applications[0]
    AppArgs.model_validate(application.args)
    ServingConfig.model_validate(application.deployments[0].user_config)
    assert (application.import_path, application.deployments[0].name) == ("serving.app:build", "Models")
