"""Answers requests within their deadline: by the models, else by the fallback; then logs the predictions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import Event, Lock, Thread

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from evermodel.clock import MICROS_PER_SECOND
from evermodel.errors import ServingError
from evermodel.serving.concurrency_limit import ConcurrencyLimit
from evermodel.serving.fallback import Fallback, FallbackScore
from evermodel.serving.predictions import (
    ClassSelection,
    Prediction,
    PredictionRequest,
    fall_back,
    log_rows,
    rank_predictions,
)
from evermodel.serving.request_log import RequestLog
from evermodel.use_case import UseCase

CallModels = Callable[[str, Sequence[PredictionRequest], ClassSelection], Awaitable[Sequence[Prediction]]]
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)
MAX_UNLOGGED = 1000  # predictions that wait for the background thread; the request that exceeds it logs them itself
MODEL_SHARE = 0.9  # of the deadline, for the models; the rest is for writing the response


class Metrics:
    """Prometheus metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "evermodel_requests", "HTTP requests", ["use_case", "verb", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "evermodel_request_seconds",
            "From request to response",
            ["use_case", "verb"],
            buckets=LATENCIES,
            registry=self.registry,
        )
        self.answers = Counter(
            "evermodel_answers", "Rows answered by a model", ["use_case", "release", "arm"], registry=self.registry
        )
        self.fallbacks = Counter(
            "evermodel_fallbacks",
            "Rows answered by the fallback",
            ["use_case", "reason", "source"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "evermodel_request_log_waiting", "Rows not yet written", ["use_case"], registry=self.registry
        )
        self.dropped = Gauge("evermodel_request_log_dropped", "Rows lost", ["use_case"], registry=self.registry)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return bytes(generate_latest(self.registry))


class PredictionService:
    """Answers requests of some use cases through `call_models`, then logs the predictions in the background.

    `call_models` may be slow, fail or never return: then the fallback answers within the deadline. Only ServingError
    passes through, because the sender must correct the request.
    """

    def __init__(
        self,
        use_cases: Mapping[str, UseCase],
        call_models: CallModels,
        logs: Mapping[str, RequestLog],
        *,
        max_waiting: int = 1000,
    ) -> None:
        self.use_cases, self.metrics = use_cases, Metrics()
        self._call_models, self._logs = call_models, logs
        self._fallbacks = {name: Fallback(case) for name, case in use_cases.items()}
        self._limits = {name: ConcurrencyLimit(max_waiting) for name in use_cases}
        self._waiting, self._max_waiting = 0, max_waiting
        self._unlogged: dict[str, list[Prediction]] = {name: [] for name in use_cases}
        self._lock, self._end = Lock(), Event()
        self._writer = Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    async def answer(
        self, name: str, requests: Sequence[PredictionRequest], selection: ClassSelection, *, rank: bool = False
    ) -> list[Prediction]:
        """Logged predictions in the order of the requests (`rank`: best first).

        ServingError `overloaded` if `max_waiting` calls are waiting already.
        """
        if self._waiting >= self._max_waiting:
            raise ServingError("overloaded", f"{self._waiting} requests are waiting; try again in a second")
        self._waiting += 1
        try:
            predictions = await self._answer_in_time(name, requests, selection)
        finally:
            self._waiting -= 1
        answered, shadows = predictions[: len(requests)], predictions[len(requests) :]
        if rank:
            answered = rank_predictions(answered)
        with self._lock:
            self._unlogged[name] += [*answered, *shadows]
            is_full = len(self._unlogged[name]) >= MAX_UNLOGGED
        if is_full:
            self._append_to_log(name)
        self._count(name, answered)
        return answered

    async def _answer_in_time(
        self, name: str, requests: Sequence[PredictionRequest], selection: ClassSelection
    ) -> list[Prediction]:
        fallback, concurrency_limit = self._fallbacks[name], self._limits[name]
        seconds = self.use_cases[name].serving.deadline / MICROS_PER_SECOND * MODEL_SHARE
        if not concurrency_limit.acquire():
            return fall_back(fallback, requests, selection, reason="model_busy")
        late = False
        try:
            predictions = list(await asyncio.wait_for(self._call_models(name, requests, selection), seconds))
        except ServingError:
            raise
        except TimeoutError:
            late = True
            return fall_back(fallback, requests, selection, reason="model_timeout")
        except Exception:  # the models' process is gone or fails; its own log has the exception
            return fall_back(fallback, requests, selection, reason="model_gone")
        finally:
            concurrency_limit.release(late=late)
        if len(predictions) < len(requests):
            return fall_back(fallback, requests, selection, reason="no_model")
        for prediction in predictions[: len(requests)]:
            if not prediction.fallback:
                fallback.remember(
                    prediction.row, FallbackScore(prediction.score, prediction.scores, prediction.classes)
                )
        return predictions

    def _count(self, name: str, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            if prediction.fallback:
                self.metrics.fallbacks.labels(name, prediction.reason, prediction.source).inc()
            else:
                self.metrics.answers.labels(name, prediction.release, prediction.arm).inc()

    def metrics_text(self) -> bytes:
        """The metrics, as Prometheus scrapes them."""
        for name, log in self._logs.items():
            self._append_to_log(name)
            self.metrics.waiting.labels(name).set(log.waiting)
            self.metrics.dropped.labels(name).set(log.dropped)
        return self.metrics.text()

    def close(self) -> None:
        """Write what waits for the request log. May be called twice."""
        self._end.set()
        self._writer.join(timeout=10)
        for name, log in self._logs.items():
            self._append_to_log(name)
            log.flush()

    def _append_to_log(self, name: str) -> None:
        """Move the predictions into the log's memory, as one table: many rows cost little more than one."""
        with self._lock:
            predictions, self._unlogged[name] = self._unlogged[name], []
        if predictions:
            self._logs[name].append(log_rows(self.use_cases[name], predictions))

    def _write(self) -> None:
        while not self._end.wait(0.25):
            for name, log in self._logs.items():
                try:
                    self._append_to_log(name)
                    if log.is_due:
                        log.flush()
                except Exception:  # storage is down: the rows wait; the metrics `waiting` and `dropped` show it
                    time.sleep(1.0)
