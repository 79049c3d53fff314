"""`python -m evermodel.serving.standby_proxy`: takes over a pod's HTTP port when the process that listened on it has died.

A killed container's pod stays an endpoint of the Service for a second or more, until the kubelet notices and every
node's proxy is updated. Meanwhile each new connection to it would be refused, and a client that retries after half a
second can meet it twice. So a second, tiny container of the pod waits beside the data path. As soon as nobody listens on
the port, it listens, and forwards connections to the pod's peers. It never answers a probe, so the pod doesn't look
ready. It stops when the port's owner is back, or after `seconds`, when no endpoint names the pod any more.

It notices the death by its own connection to the owner, which ends with the owner: it polls nothing and is on no
request's way. Both bind with SO_REUSEPORT, which Ray Serve's proxies also set, so neither keeps the other out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

LISTEN = "0A"  # as Linux's tcp_states.h numbers it
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
PROBES = b" /-/"  # in a request line: Serve's own routes, which the kubelet and the operator probe
CONNECT_SECONDS = 0.5
POLL_SECONDS = 0.1  # between two looks at the port, while there is no connection whose end would tell
CHUNK = 65536

Address = tuple[str, int]
Peers = Callable[[], Awaitable[Sequence[Address]]]


def listeners(port: int) -> set[int]:
    """The inodes of the sockets that listen on a port in this network namespace; format: proc(5)."""
    inodes = set()
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError):
            for line in table.read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(int(words[9]))
    return inodes


class StandbyProxy:
    """Watches a port and takes it over; `peers` gives the addresses to forward connections to.

    `state`: "waiting" for an owner of the port, "watching" the owner, or "forwarding" in its place.
    """

    def __init__(self, port: int, peers: Peers, *, seconds: float) -> None:
        self._port, self._peers, self._seconds = port, peers, seconds
        self._known_peers: Sequence[Address] = ()
        self.state: Literal["waiting", "watching", "forwarding"] = "waiting"

    async def run(self) -> None:
        """Runs until cancelled. It takes nothing over before it has seen the port's owner, as when a pod starts."""
        refresh = asyncio.create_task(self._refresh_peers())
        try:
            while True:
                await self._wait_for_owner()
                await self._wait_for_owner_death()
                await self._take_over()
        finally:
            refresh.cancel()

    async def _wait_for_owner(self) -> None:
        self.state = "waiting"
        while not listeners(self._port):
            await asyncio.sleep(POLL_SECONDS)

    async def _wait_for_owner_death(self) -> None:
        """Holds a connection on which the owner sends nothing, and which ends when the owner dies."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return
            self.state = "watching"
            try:
                while await reader.read(CHUNK):
                    pass
            except OSError:
                pass  # reset: gone as well
            finally:
                await _close(writer)

    async def _take_over(self) -> None:
        """Take new connections until the owner listens again or `seconds` are over. Open connections continue."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            own.bind(("0.0.0.0", self._port))
            server = await asyncio.start_server(self._accept, sock=own, backlog=512)
            inode, end = os.fstat(own.fileno()).st_ino, asyncio.get_running_loop().time() + self._seconds
            self.state = "forwarding"
            _log(f"nobody listens on port {self._port}: connections go to {len(self._known_peers)} peers")
            try:
                while listeners(self._port) == {inode} and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(POLL_SECONDS)
            finally:
                server.close()
        _log(f"port {self._port} is released")

    async def _refresh_peers(self) -> None:
        """Look up the peers before they are needed: afterwards a name look-up would take too long."""
        while True:
            with contextlib.suppress(OSError):
                self._known_peers = await self._peers() or self._known_peers
            await asyncio.sleep(2)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.read(CHUNK)
            if not first or PROBES in first.partition(b"\r\n")[0]:
                return
            peer = await self._connect()
            if peer is None:
                return
            peer_reader, peer_writer = peer
            try:
                peer_writer.write(first)
                await asyncio.gather(_copy(reader, peer_writer), _copy(peer_reader, writer))
            finally:
                await _close(peer_writer)
        except OSError:
            pass  # one side has gone, so close the other
        finally:
            await _close(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in random.sample(self._known_peers, len(self._known_peers)):
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_SECONDS)
        return None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def service_peers(host: str, port: int, *, own_address: str) -> Peers:
    """Looks up the addresses of a headless Service, without the pod's own."""

    async def look_up() -> list[Address]:
        entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return sorted({(str(entry[4][0]), port) for entry in entries} - {(own_address, port)})

    return look_up


def _log(text: str) -> None:
    sys.stderr.write(f"standby proxy: {text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> None:
    """Runs until the pod ends."""
    parser = argparse.ArgumentParser(prog="python -m evermodel.serving.standby_proxy")
    parser.add_argument("--port", type=int, default=8000, help="the port to watch and to take over")
    parser.add_argument("--peers", required=True, help="a DNS name; each of its addresses is a peer")
    parser.add_argument("--seconds", type=float, default=15.0, help="the longest time to hold the port")
    options = parser.parse_args(arguments)
    peers = service_peers(options.peers, options.port, own_address=os.environ.get("POD_IP", ""))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(StandbyProxy(options.port, peers, seconds=options.seconds).run())


if __name__ == "__main__":
    main(sys.argv[1:])
