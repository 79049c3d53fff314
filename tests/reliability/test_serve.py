"""What must hold while a model is served: no request fails, whatever is sent, whoever is gone, whichever model is new.

The first part fuzzes the real HTTP app in one process against its own OpenAPI; the second starts Ray Serve, changes the
champion under load by the ledger and by `user_config`, and takes the feature store away.
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import schemathesis
import yaml
from evermodel.serving.answers import ClassSelection, Prediction, PredictionRequest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core import NotSet
from schemathesis.specs.openapi.checks import positive_data_acceptance

from evermodel import storage
from evermodel.bundle import open_release
from evermodel.clock import micros
from evermodel.features.online_store import views as online_views
from evermodel.features.packed_store import PackedStore
from evermodel.features.training_set import TrainingRows
from evermodel.ledger import Ledger
from evermodel.records import Release, Window
from evermodel.serving.api import create_api
from evermodel.serving.batch import predict_batch, read_batch
from evermodel.serving.model_manager import LiveConfig
from evermodel.serving.predictor import GivenFeatures, Predictor
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from evermodel.training.release import train_release
from evermodel.use_case import UseCase, parse
from tests.support import ROOT
from tests.support.use_cases import use_case_text

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

SHOP = use_case_text(
    framing="ranking",
    entities={"user": "user_id", "item": "item_id"},
    source={"name": "views", "reader": "parquet"},
    fields={
        "request": "string",
        "user_id": "string",
        "item_id": "string",
        "position": {"type": "int", "min": 1, "max": 9},
        "price": {"min": 0, "max": 100},
        "stars": {"min": 0, "max": 5, "nullable": True},
        "device": {"type": "string", "values": ["web", "app"]},
        "bought": "bool",
    },
    predict={"group": "request", "item": "item_id"},
    labels={"bought": {"positive": True}},
    features={
        "position": {"serve_as": 1},
        "price": {},
        "stars": {},
        "device": {"encode": "embed"},
        "hour": {"kind": "calendar", "part": "hour"},
        "item_views": {"kind": "window", "source": "views", "entity": "item", "aggregate": "count", "spans": ["1d"]},
    },
    objectives={"buy": {"label": "bought", "model": {"kind": "linear"}}},
    training={"epochs": 1},
    serving={"deadline": "2s", "feature_timeout": "500ms", "fallback": 0.125},
)


@pytest.fixture(scope="module")
def shop() -> UseCase:
    return parse(SHOP, name="shop")


def make_release(shop: UseCase, out: Path, *, seed: int) -> Release:
    """A real release, trained on rows that a generator made up."""
    draw, n = np.random.default_rng(seed), 256
    times = [NOW - timedelta(hours=n - i) for i in range(n)]
    price = draw.uniform(0, 100, n)
    rows = pa.table(
        {
            "row_id": np.arange(n),
            "event_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "position": draw.integers(1, 9, n),
            "price": price,
            "stars": pa.array(draw.uniform(0, 5, n), mask=draw.random(n) < 0.1),
            "device": draw.choice(["web", "app"], n),
            "hour": np.array([time.hour for time in times], float),
            "item_views_1d": draw.integers(0, 50, n).astype(float),
            "label:bought": (price + draw.normal(0, 20, n) < 50).astype(float),
        }
    )
    window = Window(start=times[0], end=NOW)
    turn = TrainingRows(
        train=rows,
        gate=rows,
        rehearsal=None,
        windows=(window,),
        gate_window=window,
        rehearsal_window=None,
        row_digest="0" * 64,
        cursor=NOW,
        data_version="0" * 64,
    )
    trained = train_release(
        shop, turn, parent=None, mode="from_scratch", trigger=None, now=NOW, out=str(out / f"release-{seed}"), seed=seed
    )
    return trained.release


@pytest.fixture(scope="module")
def releases(shop: UseCase, tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    out = tmp_path_factory.mktemp("releases")
    return [make_release(shop, out, seed=seed) for seed in (1, 2, 3)]


def row(**values: Any) -> dict[str, Any]:
    return {"user_id": "u1", "item_id": "i1", "price": 10.0, "device": "web", **values}


# whatever is sent -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(shop: UseCase, electricity: UseCase, releases: list[Release], tmp_path_factory: Any) -> Iterator[FastAPI]:
    cases = {"shop": shop, "electricity": electricity}
    live = Predictor(shop, open_release(releases[0]), GivenFeatures(shop, {}))

    async def ask(name: str, questions: Sequence[PredictionRequest], choice: ClassSelection) -> list[Prediction]:
        return live.answer(questions, choice) if name == "shop" else []

    async def ready() -> dict[str, Any]:
        return {"ready": True, "use_cases": {}}

    root = tmp_path_factory.mktemp("log")
    desk = PredictionService(cases, ask, {name: RequestLog(str(root / name)) for name in cases})
    yield create_api(desk, ready=ready, clock=lambda: NOW)
    desk.close()


def send(app: FastAPI, case: schemathesis.Case) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = case.body if isinstance(case.body, (bytes, NotSet)) else json.dumps(case.body).encode()
            headers = {"content-type": "application/json", **(case.headers or {})}
            return await client.request(
                case.method,
                case.formatted_path,
                headers=headers,
                content=b"" if isinstance(content, NotSet) else content,
            )

    return asyncio.run(call())


# Ray itself warns of what it imports, and leaves a socket to the collector
_QUIET = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
]


def with_ray(test: Any) -> Any:
    for mark in (pytest.mark.ray, *_QUIET):
        test = mark(test)
    return test


FUZZ = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", ["/v1/shop/predict", "/v1/shop/rank", "/v1/electricity/predict"])
def test_any_request_is_answered_as_openapi_says(app: FastAPI, path: str, mode: GenerationMode) -> None:
    """Answers keep to their schema and status codes; valid rows are taken, invalid ones are told why."""
    operation = schemathesis.openapi.from_dict(app.openapi())[path]["POST"]
    # a ranking's context and candidates are valid together or not at all, which no schema can say
    excluded = [positive_data_acceptance] if path.endswith("rank") else []

    @FUZZ
    @given(operation.as_strategy(generation_mode=mode))
    def fuzz(case: schemathesis.Case) -> None:
        answer = send(app, case)
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, excluded_checks=excluded)
        if answer.status_code >= 400:
            assert set(answer.json()) == {"code", "field", "reason"}

    fuzz()


# whichever model is new, whoever is gone ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def args(place: Path) -> Any:
    from serving.app import AppArgs

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
    """Ray Serve with the shop: its first release is champion, its online store knows item i1."""
    import ray
    from ray import serve

    from serving.app import start

    (place / "shop.yaml").write_text(SHOP)
    views = PackedStore(place / "online.db")
    view = online_views(shop)[0]
    views.define(view.name, numbers=view.numbers, texts=view.texts)
    views.write(view.name, ["i1"], np.array([micros(NOW)]), np.array([[7.0]]), [[]])
    promote(place, releases[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_worker_niceness")  # which other tests have; here `start` is to see to it
        start(args, port=port)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


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


class Load:
    """Clients that ask one question after the other, `pause` seconds between, until told to stop; every answer is kept."""

    def __init__(self, url: str, *, clients: int, pause: float = 0.01) -> None:
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self._url, self._pause, self._end = url, pause, Event()
        self._threads = [Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._end.is_set():
                start = time.perf_counter()
                try:
                    answer = client.post("/v1/shop/predict", json={"rows": [row()]})
                    self.seconds.append(time.perf_counter() - start)
                    answer.raise_for_status()
                    self.answers.extend(answer.json()["answers"])
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self._end.wait(self._pause)

    def wait_for(self, release: Release, *, seconds: float) -> None:
        """Until an answer comes from the release."""
        self.wait_until(lambda answers: any(answer["release"] == release.id for answer in answers[-50:]), seconds)

    def wait_until(self, holds: Callable[[list[dict[str, Any]]], bool], seconds: float) -> int:
        """Until it holds for the answers so far; how many those were."""
        end = time.monotonic() + seconds
        while not holds(answers := list(self.answers)):
            assert time.monotonic() < end, f"not within {seconds} s; last: {answers[-3:]} {self.failures[-1:]}"
            time.sleep(0.05)
        return len(answers)


@with_ray
def test_its_ray_is_not_niced_and_a_slow_proxy_is_waited_for(url: str) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def seen() -> tuple[float, int]:  # by a process of the Ray that `start` started, as Serve's controller is one
        from ray.serve._private.constants import PROXY_READY_CHECK_TIMEOUT_S

        return float(PROXY_READY_CHECK_TIMEOUT_S), os.nice(0)

    assert ray.get(seen.remote(), timeout=60) == (20, os.nice(0))


@with_ray
def test_a_new_champion_is_picked_up_without_a_failed_request(url: str, place: Path, releases: list[Release]) -> None:
    with Load(url, clients=4) as load:
        load.wait_for(releases[0], seconds=60)
        promote(place, releases[1])
        load.wait_for(releases[1], seconds=60)
        time.sleep(0.5)
    assert load.failures == []
    assert not any(answer["fallback"] for answer in load.answers)
    order = [answer["release"] for answer in load.answers]
    assert set(order) == {releases[0].id, releases[1].id}
    milliseconds = np.quantile(np.array(load.seconds), [0.5, 0.95]) * 1000
    rate = len(order) / (sum(load.seconds) / 4)
    print(
        f"\n{len(order)} answers, {rate:.0f} requests a second, p50 {milliseconds[0]:.0f} ms, p95 {milliseconds[1]:.0f} ms"
    )


@with_ray
def test_the_log_holds_every_answer_once(url: str, place: Path) -> None:
    with httpx.Client(base_url=url, timeout=10) as client:
        ids = [f"once-{i}" for i in range(20)]
        for name in (*ids, *ids):
            client.post("/v1/shop/predict", json={"rows": [row()], "request_id": name}).raise_for_status()
    log, end = RequestLog(str(place / "shop" / "requests")), time.monotonic() + 10
    while True:
        rows = [found for found in log.read().to_pylist() if found["prediction_id"].startswith("once-")]
        if len(rows) >= 20 or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert sorted(found["prediction_id"] for found in rows) == sorted(f"{name}:0" for name in ids)
    assert {(found["item_views_1d"], found["position"]) for found in rows} == {(7.0, 1)}


@with_ray
@pytest.mark.slow
def test_a_redeployment_changes_weights_without_a_failed_request(url: str, args: Any, releases: list[Release]) -> None:
    from serving.app import start

    before = httpx.post(f"{url}/v1/shop/predict", json={"rows": [row()]}).json()["answers"][0]
    with Load(url, clients=2) as load:
        load.wait_for(releases[1], seconds=60)
        port = int(url.rpartition(":")[2])
        start(args, port=port, user_config={"use_cases": {"shop": {"weights": {"buy": 3.0}}}})
        after = httpx.post(f"{url}/v1/shop/predict", json={"rows": [row()]}).json()["answers"][0]
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
    assert (
        httpx.post(f"{url}/v1/shop/predict", json={"rows": [row()]}).json()["answers"][0]["release"] == releases[1].id
    )


@with_ray
def test_without_the_feature_store_the_answer_is_flagged_and_in_time(url: str, place: Path) -> None:
    for path in place.glob("online.db*"):
        path.rename(path.with_name("gone-" + path.name))
    start = time.monotonic()
    answer = httpx.post(f"{url}/v1/shop/predict", json={"rows": [row(item_id="i9")]}).json()["answers"][0]
    assert time.monotonic() - start < 2.0
    assert (answer["fallback"], answer["reason"], answer["source"], answer["score"]) == (
        True,
        "feature_store_error",
        "constant",
        0.125,
    )
    for path in place.glob("gone-online.db*"):
        path.rename(path.with_name(path.name.removeprefix("gone-")))


@with_ray
def test_bad_requests_are_told_what_and_where_through_the_proxy(url: str) -> None:
    answer = httpx.post(f"{url}/v1/shop/predict", json={"rows": [row(price=-1)]})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "out_of_range", "rows[0].price")
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
    found = read_batch(out)
    assert (manifest.rows_in, manifest.rows_out, found["row_id"].to_pylist()) == (n, n, list(range(n)))
    assert np.array_equal(found["score"].to_numpy(), open_release(releases[0]).score(rows))
    assert predict_batch(shop, releases[0], str(place / "rows.parquet"), out, batch_size=300) == manifest


@with_ray
def test_a_killed_model_is_answered_for_until_it_is_back(url: str, releases: list[Release]) -> None:
    import ray

    replicas = [
        found["name"] for found in ray.util.list_named_actors(all_namespaces=True) if "#Models#" in found["name"]
    ]
    with Load(url, clients=2, pause=0.1) as load:  # the new model needs the CPU to start
        load.wait_for(releases[1], seconds=60)
        killed = time.monotonic()
        ray.kill(ray.get_actor(replicas[0], namespace="serve"))
        gone = load.wait_until(lambda answers: any(answer["fallback"] for answer in answers), seconds=60)
        # Two clients: where only one question may be asked at a time again, the other's is still answered `model_busy`.
        load.wait_until(
            lambda answers: len(answers) > gone + 20 and not any(answer["fallback"] for answer in answers[-20:]),
            seconds=120,
        )
        print(f"\nwhole after {time.monotonic() - killed:.0f} s, {len(load.answers) - gone} answers since it was gone")
    assert load.failures == []
    assert {answer["reason"] for answer in load.answers if answer["fallback"]} <= {
        "model_gone",
        "model_timeout",
        "model_busy",
    }
    assert max(load.seconds) < 4  # the deadline is 2 s, and the machine may be busy; without it: Serve's own 5 s


@with_ray
def test_a_clean_stop_writes_what_waits_for_the_log(url: str, place: Path) -> None:
    from ray import serve

    httpx.post(f"{url}/v1/shop/predict", json={"rows": [row()], "request_id": "the-last"}).raise_for_status()
    serve.shutdown()
    assert "the-last:0" in RequestLog(str(place / "shop" / "requests")).read()["prediction_id"].to_pylist()


@with_ray
@pytest.mark.parametrize("name", ["local", "cluster"])
def test_the_serve_configs_are_what_serve_and_the_app_take(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serving.app import AppArgs

    path = ROOT / "serving" / "config" / f"{name}.yaml"
    application = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text())).applications[0]
    AppArgs.model_validate(application.args)
    LiveConfig.model_validate(application.deployments[0].user_config)
    assert (application.import_path, application.deployments[0].name) == ("serving.app:build", "Models")
