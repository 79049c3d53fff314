"""`python -m evermodel.serving.standby_proxy`: stands in on a pod's HTTP port when what listened there has died.

When a container is killed, its pod stays an endpoint of the Service for a second or more: until the kubelet has noticed,
and every node's proxy has been told. Meanwhile each new connection to it would be refused, and a client that asks again
after half a second can meet it twice. So a second, tiny container of the pod waits beside the data path: as soon as
nobody listens on the port, it does, and hands connections on to the pod's peers. It never answers a probe, so it doesn't
make a pod look ready; it stops when the port's owner is back, or after `seconds`, when no endpoint names the pod any more.

It learns of the death by a connection of its own that ends with the owner: nothing is polled, and nothing is on the way of
a request. Both bind with SO_REUSEPORT, which Ray Serve's proxies set as well, so that neither keeps the other out.
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

LISTEN = "0A"  # as Linux's tcp_states.h numbers it
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
PROBES = b" /-/"  # of a request line: Serve's own routes, which the kubelet and the operator ask
CONNECT_SECONDS = 0.5
PAUSE = 0.1  # between two looks, where nothing tells
PIECE = 65536

Address = tuple[str, int]
Peers = Callable[[], Awaitable[Sequence[Address]]]


def listeners(port: int) -> set[int]:
    """The inodes of the sockets that listen on a port in this network namespace, as proc(5) has them."""
    found = set()
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError):
            for line in table.read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(int(words[9]))
    return found


class Understudy:
    """Watches a port, and stands in on it; `peers` gives where to send connections then."""

    def __init__(self, port: int, peers: Peers, *, seconds: float) -> None:
        self._port, self._peers, self._seconds = port, peers, seconds
        self._known: Sequence[Address] = ()

    async def run(self) -> None:
        """For ever. Before the port's owner has been seen it does nothing: a pod that starts is not stood in for."""
        asking = asyncio.create_task(self._learn())
        try:
            while True:
                await self._until_listened()
                await self._until_gone()
                await self._stand_in()
        finally:
            asking.cancel()

    async def _until_listened(self) -> None:
        while not listeners(self._port):
            await asyncio.sleep(PAUSE)

    async def _until_gone(self) -> None:
        """The owner never says anything on this connection; it ends when the owner does."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return
            try:
                while await reader.read(PIECE):
                    pass
            except OSError:
                pass  # reset: gone as well
            finally:
                await _close(writer)

    async def _stand_in(self) -> None:
        """Take new connections, until the owner listens again or it has been long enough; those that are open go on."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            own.bind(("0.0.0.0", self._port))
            server = await asyncio.start_server(self._accept, sock=own, backlog=512)
            mine, end = os.fstat(own.fileno()).st_ino, asyncio.get_running_loop().time() + self._seconds
            _say(f"nobody listens on port {self._port}: connections go to {len(self._known)} peers")
            try:
                while listeners(self._port) == {mine} and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(PAUSE)
            finally:
                server.close()
        _say(f"port {self._port} is left alone")

    async def _learn(self) -> None:
        """Peers are known before they are needed: a name look-up would come too late."""
        while True:
            with contextlib.suppress(OSError):
                self._known = await self._peers() or self._known
            await asyncio.sleep(2)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.read(PIECE)
            if not first or PROBES in first.partition(b"\r\n")[0]:
                return
            peer = await self._connect()
            if peer is None:
                return
            there, back = peer
            try:
                back.write(first)
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                await _close(back)
        except OSError:
            pass  # either side has gone: so does the other
        finally:
            await _close(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in random.sample(self._known, len(self._known)):
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_SECONDS)
        return None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def by_name(host: str, port: int, *, but: str) -> Peers:
    """The addresses of a headless Service, without the pod's own."""

    async def ask() -> list[Address]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return sorted({(str(one[4][0]), port) for one in found} - {(but, port)})

    return ask


def _say(text: str) -> None:
    sys.stderr.write(f"understudy: {text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> None:
    """Until the pod ends."""
    parser = argparse.ArgumentParser(prog="python -m evermodel.serving.standby_proxy")
    parser.add_argument("--port", type=int, default=8000, help="that is watched, and stood in on")
    parser.add_argument("--peers", required=True, help="a name of which every address is a peer")
    parser.add_argument("--seconds", type=float, default=15.0, help="to stand in at most, each time")
    given = parser.parse_args(arguments)
    peers = by_name(given.peers, given.port, but=os.environ.get("POD_IP", ""))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Understudy(given.port, peers, seconds=given.seconds).run())


if __name__ == "__main__":
    main(sys.argv[1:])
