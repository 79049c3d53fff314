"""What a stream ingester says of itself over HTTP: `/metrics` for Prometheus, `/healthz` for the kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from evermodel.records import IngestReport


class StreamStatus:
    """Counters and the time of the last turn of the loop; `silence_s` without one means that it is stuck."""

    def __init__(self, *, silence_s: float = 300.0) -> None:
        self.registry = CollectorRegistry()
        self._silence = silence_s
        self._turned = monotonic()
        self._rows = Counter(
            "evermodel_stream_rows_total",
            "Rows read from the stream, by what became of them.",
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
            "Rows that the broker has and the event log has not, as of the last commit.",
            ("topic", "partition"),
            registry=self.registry,
        )
        self._failures = Counter(
            "evermodel_stream_refresh_failures_total",
            "Refreshes of online features that failed.",
            ("use_case",),
            registry=self.registry,
        )

    def alive(self) -> None:
        self._turned = monotonic()

    def count(self, topic: str, report: IngestReport) -> None:
        for outcome in ("applied", "duplicate", "rejected"):
            self._rows.labels(topic, outcome).inc(getattr(report, outcome))
        self._late.labels(topic).inc(report.late)
        self._batches.labels(topic).inc()

    def lag(self, topic: str, partition: int, rows: int) -> None:
        self._lag.labels(topic, str(partition)).set(rows)

    def refresh_failed(self, use_case: str) -> None:
        self._failures.labels(use_case).inc()

    @property
    def healthy(self) -> bool:
        return monotonic() - self._turned < self._silence

    @contextmanager
    def serve(self, host: str, port: int) -> Iterator[int]:
        """Answer while the block runs; yields the port (another one where 0 was asked for)."""
        status = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/healthz":
                    self._answer(
                        200 if status.healthy else 503, b"ok\n" if status.healthy else b"stuck\n", "text/plain"
                    )
                elif self.path == "/metrics":
                    self._answer(200, generate_latest(status.registry), CONTENT_TYPE_LATEST)
                else:
                    self._answer(404, b"not found\n", "text/plain")

            def _answer(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds: nothing to say of them."""

        server = ThreadingHTTPServer((host, port), Handler)
        thread = Thread(target=server.serve_forever, name="stream-status", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
