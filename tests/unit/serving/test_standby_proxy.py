"""Something listens on a port, is killed, and comes back: what clients of the port see meanwhile."""

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

from evermodel.serving.standby_proxy import Understudy, listeners

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
def owner(port: int, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, listening."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(port), name]) as process:
        try:
            before = listeners(port)
            while not listeners(port) - before:
                assert process.poll() is None
            yield process
        finally:
            process.kill()


async def ask(port: int, path: str = "/v1") -> str:
    async with httpx.AsyncClient(timeout=2) as client:
        return (await client.get(f"http://127.0.0.1:{port}{path}")).text


async def until_answered(port: int, text: str) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if await ask(port) == text:
                    return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def understudy(port: int, peer: int, *, seconds: float = 30) -> AsyncIterator[None]:
    async def peers() -> list[tuple[str, int]]:
        return [("127.0.0.1", peer)]

    task = asyncio.create_task(Understudy(port, peers, seconds=seconds).run())
    try:
        await asyncio.sleep(0.3)
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_killed_owner_is_stood_in_for_until_it_is_back() -> None:
    async def lived() -> None:
        port, peer = free_port(), free_port()
        with owner(peer, "peer"), owner(port, "owner") as first:
            async with understudy(port, peer):
                assert await ask(port) == "owner"
                first.kill()
                first.wait()
                await until_answered(port, "peer")
                assert [await ask(port) for _ in range(20)] == ["peer"] * 20
                with owner(port, "back"):
                    await until_answered(port, "back")
                    await asyncio.sleep(0.3)
                    assert [await ask(port) for _ in range(20)] == ["back"] * 20

    asyncio.run(lived())


def test_it_answers_no_probe_and_stops_in_time() -> None:
    """A pod whose container is gone must not look ready, and is nobody's endpoint for long."""

    async def lived() -> None:
        port, peer = free_port(), free_port()
        with owner(peer, "peer"), owner(port, "owner") as first:
            async with understudy(port, peer, seconds=1):
                first.kill()
                first.wait()
                await until_answered(port, "peer")
                with pytest.raises(httpx.RemoteProtocolError):
                    await ask(port, "/-/healthz")
                await asyncio.sleep(1.2)
                with pytest.raises(httpx.ConnectError):
                    await ask(port)

    asyncio.run(lived())


def test_a_pod_that_starts_is_not_stood_in_for() -> None:
    async def lived() -> None:
        port, peer = free_port(), free_port()
        with owner(peer, "peer"):
            async with understudy(port, peer):
                with pytest.raises(httpx.ConnectError):
                    await ask(port)

    asyncio.run(lived())
