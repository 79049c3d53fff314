"""A server on a port is killed and comes back: what clients of the port see meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest

from evermodel.serving.standby_proxy import StandbyProxy, listeners
from tests.support.waiting import scaled

OWNER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Server(ThreadingHTTPServer):
    allow_reuse_port = True
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[2].encode())
    def log_message(self, *words): pass
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

pytestmark = pytest.mark.server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run_owner(port: int, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, listening."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(port), name]) as process:
        try:
            before = listeners(port)
            while not listeners(port) - before:
                assert process.poll() is None
            yield process
        finally:
            process.kill()


async def get(port: int, path: str = "/v1") -> str:
    async with httpx.AsyncClient(timeout=2) as client:
        return (await client.get(f"http://127.0.0.1:{port}{path}")).text


async def wait_for_answer(port: int, text: str) -> None:
    async with asyncio.timeout(scaled(10)):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if await get(port) == text:
                    return
            await asyncio.sleep(0.01)


async def wait_for_state(proxy: StandbyProxy, state: str) -> None:
    async with asyncio.timeout(scaled(10)):
        while proxy.state != state:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def run_standby_proxy(port: int, peer: int, *, seconds: float = 300) -> AsyncIterator[StandbyProxy]:
    async def peers() -> list[tuple[str, int]]:
        return [("127.0.0.1", peer)]

    proxy = StandbyProxy(port, peers, seconds=seconds)
    task = asyncio.create_task(proxy.run())
    try:
        yield proxy
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_proxy_takes_over_from_a_killed_owner_until_it_is_back() -> None:
    async def scenario() -> None:
        port, peer = free_port(), free_port()
        with run_owner(peer, "peer"), run_owner(port, "owner") as first:
            async with run_standby_proxy(port, peer) as proxy:
                await wait_for_state(proxy, "watching")
                assert await get(port) == "owner"
                first.kill()
                first.wait()
                await wait_for_answer(port, "peer")
                assert [await get(port) for _ in range(20)] == ["peer"] * 20
                with run_owner(port, "back"):
                    await wait_for_state(proxy, "watching")
                    assert [await get(port) for _ in range(20)] == ["back"] * 20

    asyncio.run(scenario())


def test_the_proxy_answers_no_probe_and_stops_in_time() -> None:
    """A pod whose container is gone must not look ready; soon it is no endpoint any more."""

    async def scenario() -> None:
        port, peer = free_port(), free_port()
        with run_owner(peer, "peer"), run_owner(port, "owner") as first:
            async with run_standby_proxy(port, peer, seconds=scaled(1)) as proxy:
                await wait_for_state(proxy, "watching")
                first.kill()
                first.wait()
                await wait_for_answer(port, "peer")
                with pytest.raises(httpx.RemoteProtocolError):
                    await get(port, "/-/healthz")
                await wait_for_state(proxy, "waiting")
                with pytest.raises(httpx.ConnectError):
                    await get(port)

    asyncio.run(scenario())


def test_the_proxy_does_not_take_over_before_the_owner_has_started() -> None:
    async def scenario() -> None:
        port, peer = free_port(), free_port()
        with run_owner(peer, "peer"):
            async with run_standby_proxy(port, peer) as proxy:
                await wait_for_state(proxy, "waiting")
                with pytest.raises(httpx.ConnectError):
                    await get(port)
                assert proxy.state == "waiting"

    asyncio.run(scenario())
