"""Stands between one client and the broker, so that the broker can be away for that client alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class BrokerProxy:
    """What is sent to `address` reaches the broker; while `mute`, no answer comes back, so that nobody knows what it did."""

    broker: str
    address: str = ""
    mute: bool = False
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """End all connections, as a broker does that restarts."""
        for writer in self._connections:
            writer.close()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        host, _, port = self.broker.rpartition(":")
        from_broker, to_broker = await asyncio.open_connection(host, int(port))
        self._connections |= {writer, to_broker}
        answers = asyncio.create_task(self._answer(from_broker, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                to_broker.write(data)
                await to_broker.drain()
        self._connections -= {writer, to_broker}
        to_broker.close()
        writer.close()
        await answers

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass answers on, with our address in the place of the one that the broker advertises: host and port follow each other."""
        theirs, ours = (_spelt(address) for address in (self.broker, self.address))
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                if not self.mute:
                    writer.write(data.replace(theirs, ours))
                    await writer.drain()


@asynccontextmanager
async def proxy_of(broker: str) -> AsyncIterator[BrokerProxy]:
    """Serve a proxy of a broker whose advertised address is `broker`."""
    proxy = BrokerProxy(broker)
    server = await asyncio.start_server(proxy.connected, broker.rpartition(":")[0], 0)
    proxy.address = f"{broker.rpartition(':')[0]}:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield proxy
        server.close()
        proxy.cut()


def _spelt(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    return host.encode() + int(port).to_bytes(4, "big")
