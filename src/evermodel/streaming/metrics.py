"""The state of a stream ingester over HTTP: `/metrics` for Prometheus, `/healthz` for the kubelet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from evermodel.records import IngestReport


class StreamStatus:
    """Counters, and the last sign of life; the ingester counts as stuck `silence_seconds` after that."""

    def __init__(self, *, silence_seconds: float = 300.0, clock: Callable[[], float] = monotonic) -> None:
        self.registry = CollectorRegistry()
        self._silence_seconds, self._clock = silence_seconds, clock
        self._last_alive = clock()
        self._rows = Counter(
            "evermodel_stream_rows_total",
            "Rows read from the stream, by outcome.",
            ("topic", "outcome"),
            registry=self.registry,
        )
        self._late = Counter(
            "evermodel_stream_late_rows_total", "Applied rows that were late.", ("topic",), registry=self.registry
        )
        self._batches = Counter(
            "evermodel_stream_batches_total", "Batches committed to the event log.", ("topic",), registry=self.registry
        )
        self._lag = Gauge(
            "evermodel_stream_lag_rows",
            "Rows at the broker that aren't in the event log, as of the last commit.",
            ("topic", "partition"),
            registry=self.registry,
        )
        self._failures = Counter(
            "evermodel_stream_refresh_failures_total",
            "Refreshes of online features that failed.",
            ("use_case",),
            registry=self.registry,
        )

    def mark_alive(self) -> None:
        """Call this once in each iteration of the loop."""
        self._last_alive = self._clock()

    def count_batch(self, topic: str, report: IngestReport) -> None:
        for outcome in ("applied", "duplicate", "rejected"):
            self._rows.labels(topic, outcome).inc(getattr(report, outcome))
        self._late.labels(topic).inc(report.late)
        self._batches.labels(topic).inc()

    def set_lag(self, topic: str, partition: int, rows: int) -> None:
        self._lag.labels(topic, str(partition)).set(rows)

    def count_failed_refresh(self, use_case: str) -> None:
        self._failures.labels(use_case).inc()

    @property
    def healthy(self) -> bool:
        return self._clock() - self._last_alive < self._silence_seconds

    @contextmanager
    def serve(self, host: str, port: int) -> Iterator[int]:
        """Serve while the block runs; yields the port (a free one if `port` is 0)."""
        status = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/healthz":
                    code, body = (200, b"ok\n") if status.healthy else (503, b"stuck\n")
                    self._respond(code, body, "text/plain")
                elif self.path == "/metrics":
                    self._respond(200, generate_latest(status.registry), CONTENT_TYPE_LATEST)
                else:
                    self._respond(404, b"not found\n", "text/plain")

            def _respond(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds, so they aren't logged."""

        server = ThreadingHTTPServer((host, port), Handler)
        thread = Thread(target=server.serve_forever, name="stream-status", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
