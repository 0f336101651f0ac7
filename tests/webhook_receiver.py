"""An HTTP server that gets webhooks, and behaves as badly as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = int | str
"""A status; or `close` (hangs up without a word), `hang` (says nothing until it is let go), `garbage`, `redirect <url>`, `busy <seconds>`."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What came in. `answers` are given one after the other, then `otherwise`."""

    port: int = 0
    answers: list[Answer] = field(default_factory=list)
    otherwise: Answer | Callable[[Received], Answer] = 204
    received: list[Received] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        """The webhook-id of every request, in the order of arrival."""
        return [request.headers["webhook-id"] for request in self.received]

    async def arrived(self, count: int) -> Sequence[Received]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            request = await _read(reader)
            async with self._arrived:
                self.received.append(request)
                self._arrived.notify_all()
            chosen = self.answers.pop(0) if self.answers else self.otherwise
            await self._answer(chosen(request) if callable(chosen) else chosen, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.at_once -= 1
            writer.close()

    async def _answer(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        if answer == "hang":
            await self.let_go.wait()
        if answer in {"hang", "close"}:
            return
        head, extra = answer, ""
        if isinstance(answer, str):
            kind, _, argument = answer.partition(" ")
            if kind == "garbage":
                writer.write(b"\x00\xff not http\r\n\r\n")
                return
            head, extra = (
                (302, f"location: {argument}\r\n") if kind == "redirect" else (503, f"retry-after: {argument}\r\n")
            )
        writer.write(f"HTTP/1.1 {head} x\r\n{extra}content-length: 0\r\n\r\n".encode())
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(head[0].split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(
    *answers: Answer, otherwise: Answer | Callable[[Received], Answer] = 204
) -> AsyncIterator[Receiver]:
    """Run a receiver on a port of its own."""
    receiver = Receiver(answers=list(answers), otherwise=otherwise)
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.let_go.set()
        server.close()
        await server.wait_closed()
