"""The Ray Serve graph: HTTP in `Ingress`; models in `Models`, which batches over requests and swaps releases.

The other modules answer requests without Ray. This module only holds what Ray must know: who calls whom,
how many replicas there are, and what happens when one is gone. A new champion is served in two ways, and neither drops
a request: by `user_config` (`reconfigure`), or, if `ledger` is set, by the ledger, which is polled every `poll_seconds`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from evermodel import clock, storage
from evermodel import use_case as use_cases
from evermodel.clock import MICROS_PER_SECOND
from evermodel.credentials import Tokens
from evermodel.errors import ServingError
from evermodel.serving.api import create_api
from evermodel.serving.model_manager import ChampionWatcher, ModelManager
from evermodel.serving.online_features import FeatureReader, GivenFeatures, stored_columns
from evermodel.serving.predictions import ClassSelection, Prediction, PredictionRequest
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase

Call = tuple[str, Sequence[PredictionRequest], ClassSelection]
QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")
TELEMETRY_OFF = {"DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
# For a local Ray on a busy laptop. By default its workers have nice 15, so that every other process comes before a
# request, and Serve kills an HTTP proxy that isn't up after three times 5 s.
LOCAL_RAY = {"RAY_worker_niceness": "0", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20"}


class AppArgs(BaseModel):
    """The arguments of the graph. They are URIs, so that a laptop and a cluster differ only in values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_cases: dict[str, str] = Field(min_length=1, description="name → URI of its use-case file")
    state: str = Field(description="request logs go to {state}/{use case}/requests")
    ledger: str | None = Field(None, description="SQLAlchemy URL; its champions are served without a deployment")
    online_store: str | None = Field(None, description="path or redis:// of the online store; may hold {use_case}")
    online_store_password_file: str | None = Field(None, description="the file of its password")
    tokens_file: str | None = Field(None, description="who may call, see evermodel.credentials; absent: everybody")
    poll_seconds: float = Field(1.0, gt=0)
    simulated_time: bool = Field(False, description="take the time from each request's `at`")
    ingress_replicas: int = Field(1, ge=1)
    model_replicas: int = Field(1, ge=1)
    num_gpus: float = Field(0.0, ge=0, description="of a model replica")
    num_cpus: float = Field(0.1, ge=0, description="of each replica, as Ray schedules them")
    load_seconds: float = Field(60.0, gt=0, description="the time to load and try a release; beyond, it isn't served")
    max_ongoing_requests: int = Field(200, ge=1, description="of each replica at a time")
    max_queued_requests: int = Field(400, ge=1, description="beyond: 429")
    flush_rows: int = Field(1000, ge=1)
    flush_seconds: float = Field(5.0, gt=0, description="a killed process loses at most the log of this time")
    drain_seconds: float = Field(10.0, gt=0, description="the time for a stopping replica to finish its requests")


def graph(args: AppArgs, user_config: dict[str, Any] | None = None) -> serve.Application:
    """The graph Ingress → Models. `user_config`: of the models, if no config file gives one."""
    cases = {name: use_cases.load(uri) for name, uri in args.use_cases.items()}
    for name, case in cases.items():
        if case.name != name:
            raise ServingError(
                "bad_args", f"{args.use_cases[name]} is use case {case.name!r}", field=f"use_cases.{name}"
            )
    shared: dict[str, Any] = {
        "max_ongoing_requests": args.max_ongoing_requests,
        "max_queued_requests": args.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
        "graceful_shutdown_timeout_s": args.drain_seconds,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": 5,
        "health_check_timeout_s": 10,
        "logging_config": QUIET,
        "max_surge_percent": 100,
    }
    resources = {"num_cpus": args.num_cpus, "runtime_env": {"env_vars": TELEMETRY_OFF}}
    models = serve.deployment(
        name="Models",
        num_replicas=args.model_replicas,
        ray_actor_options={**resources, "num_gpus": args.num_gpus},
        user_config=user_config or {},
        **shared,
    )(Models).bind(args)
    ingress = serve.deployment(
        name="Ingress", num_replicas=args.ingress_replicas, ray_actor_options=resources, **shared
    )(Ingress)
    return ingress.bind(args, models)


class Models:
    """The models of every use case, and the features they read. One thread pool a use case does the work."""

    def __init__(self, args: AppArgs) -> None:
        from evermodel.bundle import open_release

        cases = {name: use_cases.load(uri) for name, uri in args.use_cases.items()}
        readers = {name: _make_reader(case, args) for name, case in cases.items()}
        opener = partial(open_release, device="cuda" if args.num_gpus else "cpu")
        self._manager = ModelManager(cases, readers, opener=opener, clock=clock.now, load_seconds=args.load_seconds)
        serving = [case.serving for case in cases.values()]
        self._answer.set_max_batch_size(max(part.max_batch_size for part in serving))  # type: ignore[attr-defined]
        self._answer.set_batch_wait_timeout_s(min(part.batch_wait for part in serving) / MICROS_PER_SECOND)  # type: ignore[attr-defined]
        self._watcher: ChampionWatcher | None = None
        if args.ledger:
            from evermodel.ledger import Ledger

            self._watcher = ChampionWatcher(Ledger(args.ledger), self._manager, seconds=args.poll_seconds)
            self._watcher.poll()
            self._watcher.start()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Apply Serve's `user_config`: loaded and tried off the event loop, then swapped. See `ModelManager.apply`."""
        await asyncio.to_thread(self._manager.apply, config)

    async def answer(
        self, name: str, requests: Sequence[PredictionRequest], selection: ClassSelection
    ) -> list[Prediction]:
        """The predictions for one HTTP request, in order; empty if the use case has no model yet."""
        predictions: list[Prediction] = await self._answer((name, requests, selection))
        return predictions

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def _answer(self, calls: list[Call]) -> list[list[Prediction]]:
        """Calls that arrived together, scored together: one table for each use case and selection."""
        groups: dict[tuple[str, ClassSelection], list[int]] = {}
        for i, (name, _, selection) in enumerate(calls):
            groups.setdefault((name, selection), []).append(i)
        answered = await asyncio.gather(
            *(self._answer_together(*key, [calls[i][1] for i in index]) for key, index in groups.items())
        )
        predictions: list[list[Prediction]] = [[] for _ in calls]
        for index, parts in zip(groups.values(), answered, strict=True):
            for i, part in zip(index, parts, strict=True):
                predictions[i] = part
        return predictions

    async def _answer_together(
        self, name: str, selection: ClassSelection, parts: list[Sequence[PredictionRequest]]
    ) -> list[list[Prediction]]:
        predictor = self._manager.get(name)
        if predictor is None:
            return [[] for _ in parts]
        requests = [request for part in parts for request in part]
        predictions = await asyncio.to_thread(predictor.answer, requests, selection)
        owner = [i for i, part in enumerate(parts) for _ in part]
        split: list[list[Prediction]] = [[] for _ in parts]
        for i, prediction in enumerate(predictions):  # each shadow arm's follow, for the same requests in order
            split[owner[i % len(owner)]].append(prediction)
        return split

    async def status(self) -> dict[str, Any]:
        """What this replica serves. One of several replicas answers: its name and their number are included."""
        context = serve.get_replica_context()
        return {**self._manager.status(), "replica": context.replica_tag, "replicas": context.world_size}

    async def check_health(self) -> None:
        """Predict: a replica whose event loop or models hang is unhealthy, even if its port is open."""
        await asyncio.wait_for(asyncio.to_thread(self._manager.check), 5.0)

    def __del__(self) -> None:
        if watcher := getattr(self, "_watcher", None):  # absent if __init__ failed
            watcher.stop()


@serve.ingress()
class Ingress:
    """HTTP, deadlines, the fallback if the models are gone, and the request log."""

    def __init__(self, args: AppArgs, models: DeploymentHandle[Any]) -> None:
        cases = {name: use_cases.load(uri) for name, uri in args.use_cases.items()}
        logs = {name: _make_log(name, args) for name in cases}
        # Prefer the models of the same pod. A call over the network costs more CPU, and a node that is cut off would
        # take the requests of other nodes with it until the head notices. Ray has no public option for it yet.
        models._init(_prefer_local_routing=True)  # type: ignore[no-untyped-call]
        self._args, self._models = args, models
        self._service = PredictionService(cases, self._call_models, logs, max_waiting=args.max_ongoing_requests)
        self._tokens = Tokens.from_file(args.tokens_file) if args.tokens_file else None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(
            self._service,
            ready=self._ready,
            clock=clock.now,
            simulated_time=self._args.simulated_time,
            tokens=self._tokens,
        )

    async def _call_models(
        self, name: str, requests: Sequence[PredictionRequest], selection: ClassSelection
    ) -> Sequence[Prediction]:
        try:
            return list(await self._models.answer.remote(name, requests, selection))
        except BackPressureError:
            raise ServingError(
                "overloaded", "the models have too many requests waiting; try again in a second"
            ) from None

    async def _ready(self) -> dict[str, Any]:
        return dict(await asyncio.wait_for(self._models.status.remote(), 2.0))

    def __del__(self) -> None:
        if service := getattr(self, "_service", None):  # absent if __init__ failed
            service.close()


def start(
    args: AppArgs, *, host: str = "127.0.0.1", port: int = 8000, user_config: dict[str, Any] | None = None
) -> None:
    """Serve in the running Ray, else in a new local one; returns once the graph is up.

    `user_config`: see `evermodel.serving.model_manager.ServingConfig`. A second call is a redeployment that starts new
    replicas before old ones stop; a changed config file (`serve deploy`) reconfigures the running ones.
    """
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    os.environ.update(TELEMETRY_OFF)
    if not ray.is_initialized():
        os.environ.update(LOCAL_RAY | os.environ)  # values that the user has set win
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": 5.0}, logging_config=QUIET)
    serve.run(graph(args, user_config), name="evermodel", route_prefix="/", logging_config=QUIET)


def stop() -> None:
    """Let requests finish, write the request logs, then end Serve and Ray."""
    import ray

    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def _make_reader(case: UseCase, args: AppArgs) -> FeatureReader:
    if not stored_columns(case):
        return GivenFeatures(case, {})
    if args.online_store is None:
        raise ServingError("bad_args", f"{case.name} has window features and needs one", field="online_store")
    from evermodel.features.online_store import OnlineStore

    uri = args.online_store.format(use_case=case.name)
    return OnlineStore(case, uri, password_file=args.online_store_password_file)


def _make_log(name: str, args: AppArgs) -> RequestLog:
    root = storage.join(args.state, name, "requests")
    return RequestLog(root, flush_rows=args.flush_rows, flush_seconds=args.flush_seconds)
