"""The Ray Serve graph: HTTP in `Ingress`, models in `Models`, which batches over requests and swaps releases live.

    serve run serving/config/local.yaml          # or, with a project's own places: python -m serving

All that answers a request is in `evermodel.serving`; here is only what Ray needs to know: who calls whom, how many, and
what to do when one is gone. A new champion goes live two ways, neither of which drops a request: by `user_config`
(`reconfigure`), or by the ledger where `ledger` is set, which is asked every `poll_seconds`.
"""

# No `from __future__ import annotations`: Serve reads the class of `build`'s argument from its annotation.
import asyncio
import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from evermodel import storage
from evermodel import use_case as use_cases
from evermodel.credentials import Tokens
from evermodel.errors import ServingError
from evermodel.serving.answers import ClassSelection, Prediction, PredictionRequest
from evermodel.serving.api import create_api
from evermodel.serving.model_manager import ChampionWatcher, ModelManager
from evermodel.serving.predictor import FeatureReader, GivenFeatures, stored_columns
from evermodel.serving.request_log import RequestLog
from evermodel.serving.service import PredictionService
from evermodel.use_case import UseCase

Call = tuple[str, Sequence[PredictionRequest], ClassSelection]
QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")
TELEMETRY_OFF = {"DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
# A Ray of our own, maybe on a busy laptop: its workers would have nice 15, so that all else came before an answer, and
# Serve kills an HTTP proxy that isn't up after three times 5 s.
LOCAL_RAY = {"RAY_worker_niceness": "0", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20"}


class AppArgs(BaseModel):
    """What the graph is built from. URIs, so that a laptop and a cluster differ only in values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_cases: dict[str, str] = Field(min_length=1, description="name → URI of its use-case file")
    state: str = Field(description="request logs go to {state}/{use case}/requests")
    ledger: str | None = Field(None, description="SQLAlchemy URL; its champions go live by themselves")
    online_store: str | None = Field(None, description="path or redis:// of the online store; may hold {use_case}")
    online_store_password_file: str | None = Field(None, description="the file of its password")
    tokens_file: str | None = Field(None, description="who may call, see evermodel.credentials; absent: everybody")
    poll_seconds: float = Field(1.0, gt=0)
    simulated_time: bool = Field(False, description="take the present from each request's `at`")
    ingress_replicas: int = Field(1, ge=1)
    model_replicas: int = Field(1, ge=1)
    num_gpus: float = Field(0.0, ge=0, description="of a model replica")
    num_cpus: float = Field(0.1, ge=0, description="of each replica, as Ray schedules them")
    load_seconds: float = Field(60.0, gt=0, description="what a release has to be loaded and tried, or it isn't live")
    max_ongoing_requests: int = Field(200, ge=1, description="of each replica at a time")
    max_queued_requests: int = Field(400, ge=1, description="beyond: 429")
    flush_rows: int = Field(1000, ge=1)
    flush_seconds: float = Field(5.0, gt=0, description="at most so much of the request log is lost with a process")
    drain_seconds: float = Field(10.0, gt=0, description="what a stopping replica has to finish its requests")


def build(args: AppArgs) -> serve.Application:
    """The graph: Ingress → Models. Serve calls it with the `args` of its config file."""
    return graph(args)


def graph(args: AppArgs, user_config: dict[str, Any] | None = None) -> serve.Application:
    """The graph, with a `user_config` of the models where no config file gives one."""
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
    models = Models.options(
        num_replicas=args.model_replicas,
        ray_actor_options={**resources, "num_gpus": args.num_gpus},
        user_config=user_config or {},
        **shared,
    ).bind(args)
    return Ingress.options(num_replicas=args.ingress_replicas, ray_actor_options=resources, **shared).bind(args, models)


@serve.deployment
class Models:
    """The live models of every use case, and the features they read. One thread pool a use case does the work."""

    def __init__(self, args: AppArgs) -> None:
        from evermodel.bundle import open_release

        cases = {name: use_cases.load(uri) for name, uri in args.use_cases.items()}
        readers = {name: _reader(case, args) for name, case in cases.items()}
        opener = partial(open_release, device="cuda" if args.num_gpus else "cpu")
        self._live = ModelManager(cases, readers, opener=opener, clock=_now, load_seconds=args.load_seconds)
        self._answer.set_max_batch_size(max(case.serving.max_batch_size for case in cases.values()))  # type: ignore[attr-defined]
        self._answer.set_batch_wait_timeout_s(min(case.serving.batch_wait for case in cases.values()) * 1e-6)  # type: ignore[attr-defined]
        self._watch: ChampionWatcher | None = None
        if args.ledger:
            from evermodel.ledger import Ledger

            self._watch = ChampionWatcher(Ledger(args.ledger), self._live, seconds=args.poll_seconds)
            self._watch.look()
            self._watch.start()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve's `user_config`, live: loaded and tried off the event loop, then swapped. See `ModelManager.apply`."""
        await asyncio.to_thread(self._live.apply, config)

    async def answer(
        self, name: str, questions: Sequence[PredictionRequest], choice: ClassSelection
    ) -> list[Prediction]:
        """One request's questions, in order; nothing where the use case has no model yet."""
        found: list[Prediction] = await self._answer((name, questions, choice))
        return found

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def _answer(self, calls: list[Call]) -> list[list[Prediction]]:
        """Requests that came together, scored together: by use case and choice, in one table each."""
        groups: dict[tuple[str, ClassSelection], list[int]] = {}
        for i, (name, _, choice) in enumerate(calls):
            groups.setdefault((name, choice), []).append(i)
        done = await asyncio.gather(
            *(self._together(*key, [calls[i][1] for i in index]) for key, index in groups.items())
        )
        answers: list[list[Prediction]] = [[] for _ in calls]
        for index, found in zip(groups.values(), done, strict=True):
            for i, part in zip(index, found, strict=True):
                answers[i] = part
        return answers

    async def _together(
        self, name: str, choice: ClassSelection, asked: list[Sequence[PredictionRequest]]
    ) -> list[list[Prediction]]:
        predictor = self._live.get(name)
        if predictor is None:
            return [[] for _ in asked]
        questions = [question for part in asked for question in part]
        answers = await asyncio.to_thread(predictor.answer, questions, choice)
        owner = [i for i, part in enumerate(asked) for _ in part]
        parts: list[list[Prediction]] = [[] for _ in asked]
        for i, answer in enumerate(answers):  # every shadow arm's answers come after, for the same questions in order
            parts[owner[i % len(owner)]].append(answer)
        return parts

    async def status(self) -> dict[str, Any]:
        """What this replica has live. One of several answers: it says which one, and how many there are."""
        context = serve.get_replica_context()
        return {**self._live.status(), "replica": context.replica_tag, "replicas": context.world_size}

    async def check_health(self) -> None:
        """Predict: a replica whose event loop or models are stuck is not healthy, whatever its port says."""
        await asyncio.wait_for(asyncio.to_thread(self._live.check), 5.0)

    def __del__(self) -> None:
        if watch := getattr(self, "_watch", None):
            watch.stop()


@serve.deployment
@serve.ingress()
class Ingress:
    """HTTP, deadlines, the fallback when the models are gone, and the request log of what was answered."""

    def __init__(self, args: AppArgs, models: DeploymentHandle) -> None:
        cases = {name: use_cases.load(uri) for name, uri in args.use_cases.items()}
        logs = {name: _log(name, args) for name in cases}
        # The models of one's own pod first: a call that crosses the network costs more CPU, and a node that is cut off
        # takes the requests of the others with it until the head has noticed. Ray names no public word for it yet.
        models._init(_prefer_local_routing=True)
        self._args, self._models = args, models
        self._desk = PredictionService(cases, self._ask, logs, max_waiting=args.max_ongoing_requests)
        self._tokens = Tokens.from_file(args.tokens_file) if args.tokens_file else None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(
            self._desk,
            ready=self._ready,
            clock=_now,
            simulated_time=self._args.simulated_time,
            tokens=self._tokens,
        )

    async def _ask(
        self, name: str, questions: Sequence[PredictionRequest], choice: ClassSelection
    ) -> Sequence[Prediction]:
        try:
            return list(await self._models.answer.remote(name, questions, choice))
        except BackPressureError:
            raise ServingError(
                "overloaded", "the models have too many requests waiting; try again in a second"
            ) from None

    async def _ready(self) -> dict[str, Any]:
        return dict(await asyncio.wait_for(self._models.status.remote(), 2.0))

    def __del__(self) -> None:
        if desk := getattr(self, "_desk", None):
            desk.close()


def start(
    args: AppArgs, *, host: str = "127.0.0.1", port: int = 8000, user_config: dict[str, Any] | None = None
) -> None:
    """Serve in the Ray that is running, else in a local one of its own; returns once the graph is up.

    `user_config`: see `evermodel.serving.model_manager.LiveConfig`. Called again, it is a redeployment that starts new replicas
    before old ones stop; a changed config file (`serve deploy`) reconfigures the ones that run.
    """
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    os.environ.update(TELEMETRY_OFF)
    if not ray.is_initialized():
        os.environ.update(LOCAL_RAY | os.environ)  # who has set one of them knows better
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": 5.0}, logging_config=QUIET)
    serve.run(graph(args, user_config), name="evermodel", route_prefix="/", logging_config=QUIET)


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _reader(case: UseCase, args: AppArgs) -> FeatureReader:
    if not stored_columns(case):
        return GivenFeatures(case, {})
    if args.online_store is None:
        raise ServingError("bad_args", f"{case.name} has window features and needs one", field="online_store")
    from evermodel.features.online_store import OnlineStore

    uri = args.online_store.format(use_case=case.name)
    return OnlineStore(case, uri, password_file=args.online_store_password_file)


def _log(name: str, args: AppArgs) -> RequestLog:
    root = storage.join(args.state, name, "requests")
    return RequestLog(root, flush_rows=args.flush_rows, flush_seconds=args.flush_seconds)
