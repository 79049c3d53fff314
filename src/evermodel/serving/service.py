"""Where a request is answered within its deadline, whatever happens behind: ask the models, else fall back; then log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import Event, Lock, Thread

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from evermodel.errors import ServingError
from evermodel.serving.answers import ClassSelection, Prediction, PredictionRequest, fall_back, log_rows, ranked
from evermodel.serving.concurrency_limit import Limit
from evermodel.serving.fallback import Fallback, FallbackScore
from evermodel.serving.request_log import RequestLog
from evermodel.use_case import UseCase

Ask = Callable[[str, Sequence[PredictionRequest], ClassSelection], Awaitable[Sequence[Prediction]]]
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)
MANY = 1000  # answers that wait to be put into the log: beyond, whoever answers does it
ANSWER_SHARE = 0.9  # of the deadline: the rest is for writing the answer


class Metrics:
    """Prometheus figures of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "evermodel_requests", "HTTP requests", ["use_case", "verb", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "evermodel_request_seconds",
            "From request to answer",
            ["use_case", "verb"],
            buckets=LATENCIES,
            registry=self.registry,
        )
        self.answers = Counter(
            "evermodel_answers", "Rows answered", ["use_case", "release", "arm"], registry=self.registry
        )
        self.fallbacks = Counter(
            "evermodel_fallbacks",
            "Rows answered without the model",
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
    """Answers questions of some use cases through `ask`, and logs what was answered, once it was.

    `ask` may be slow, fail or never return: the answer then comes from the fallback, within the deadline. Only
    ServingError passes through: it is the sender's to mend.
    """

    def __init__(
        self, use_cases: Mapping[str, UseCase], ask: Ask, logs: Mapping[str, RequestLog], *, max_waiting: int = 1000
    ) -> None:
        self.use_cases, self.metrics = use_cases, Metrics()
        self._ask, self._logs = ask, logs
        self._fallbacks = {name: Fallback(case) for name, case in use_cases.items()}
        self._limits = {name: Limit(max_waiting) for name in use_cases}
        self._waiting, self._max_waiting = 0, max_waiting
        self._answered: dict[str, list[Prediction]] = {name: [] for name in use_cases}  # and not in the log yet
        self._lock, self._end = Lock(), Event()
        self._writer = Thread(target=self._write, name="request-log", daemon=True)
        self._writer.start()

    async def answer(
        self, name: str, questions: Sequence[PredictionRequest], choice: ClassSelection, *, rank: bool = False
    ) -> list[Prediction]:
        """The answers in the order of the questions (`rank`: best first), logged. ServingError `overloaded` beyond `max_waiting`."""
        if self._waiting >= self._max_waiting:
            raise ServingError("overloaded", f"{self._waiting} requests are waiting; try again in a second")
        self._waiting += 1
        try:
            answers = await self._within_deadline(name, questions, choice)
        finally:
            self._waiting -= 1
        given, shadows = answers[: len(questions)], answers[len(questions) :]
        if rank:
            given = ranked(given)
        with self._lock:
            self._answered[name] += [*given, *shadows]
            many = len(self._answered[name]) >= MANY
        if many:
            self._note(name)
        self._count(name, given)
        return given

    async def _within_deadline(
        self, name: str, questions: Sequence[PredictionRequest], choice: ClassSelection
    ) -> list[Prediction]:
        fallback, limit = self._fallbacks[name], self._limits[name]
        seconds = self.use_cases[name].serving.deadline * 1e-6 * ANSWER_SHARE
        if not limit.take():
            return fall_back(fallback, questions, choice, reason="model_busy")
        late = False
        try:
            answers = list(await asyncio.wait_for(self._ask(name, questions, choice), seconds))
        except ServingError:
            raise
        except TimeoutError:
            late = True
            return fall_back(fallback, questions, choice, reason="model_timeout")
        except Exception:  # the models' process is gone, or answers nonsense: the flag says so, and so do its own logs
            return fall_back(fallback, questions, choice, reason="model_gone")
        finally:
            limit.give_back(late=late)
        if len(answers) < len(questions):
            return fall_back(fallback, questions, choice, reason="no_model")
        for answer in answers[: len(questions)]:
            if not answer.fallback:
                fallback.remember(answer.row, FallbackScore(answer.score, answer.scores, answer.classes))
        return answers

    def _count(self, name: str, answers: Sequence[Prediction]) -> None:
        for answer in answers:
            if answer.fallback:
                self.metrics.fallbacks.labels(name, answer.reason, answer.source).inc()
            else:
                self.metrics.answers.labels(name, answer.release, answer.arm).inc()

    def figures(self) -> bytes:
        """The metrics, as Prometheus scrapes them."""
        for name, log in self._logs.items():
            self._note(name)
            self.metrics.waiting.labels(name).set(log.waiting)
            self.metrics.dropped.labels(name).set(log.dropped)
        return self.metrics.text()

    def close(self) -> None:
        """Write what waits for the request log. May be called twice."""
        self._end.set()
        self._writer.join(timeout=10)
        for name, log in self._logs.items():
            self._note(name)
            log.flush()

    def _note(self, name: str) -> None:
        """Put what was answered into the log's memory: many rows make one table for little more than one row does."""
        with self._lock:
            answers, self._answered[name] = self._answered[name], []
        if answers:
            self._logs[name].append(log_rows(self.use_cases[name], answers))

    def _write(self) -> None:
        while not self._end.wait(0.25):
            for name, log in self._logs.items():
                try:
                    self._note(name)
                    if log.is_due:
                        log.flush()
                except Exception:  # storage is away: the rows wait on (`waiting`, then `dropped`, say so)
                    time.sleep(1.0)
