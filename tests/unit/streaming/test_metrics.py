"""The state of a stream ingester over HTTP."""

import urllib.error
import urllib.request

import pytest

from evermodel.streaming.metrics import StreamStatus


def test_health_and_metrics_over_http() -> None:
    seconds = 0.0
    status = StreamStatus(silence_seconds=300.0, clock=lambda: seconds)
    with status.serve("127.0.0.1", 0) as port:
        status.set_lag("shop.visits", 1, 12)
        assert b'evermodel_stream_lag_rows{partition="1",topic="shop.visits"} 12.0' in get(port, "/metrics")
        status.mark_alive()
        assert get(port, "/healthz") == b"ok\n"
        seconds = 301.0
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(port, "/healthz")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/else")


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        body: bytes = response.read()
        return body
