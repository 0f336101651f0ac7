"""Live counters: told whole at first, then what changes, soon; bounded, and ended with the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import Message

from deploy.local import ports
from services.api.state import parts_of
from services.api.usage import streaming
from shared.postgres import Pool
from tests.integration.api.facts import Customer, Facts
from tests.integration.schema_facts import make_subscription

SOON = 10.0


@dataclass
class Stream:
    """A client of a stream without a network."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    blocks: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def block(self) -> str:
        """The next event or comment."""
        async with asyncio.timeout(SOON):
            return await self.blocks.get()

    async def counters(self) -> dict[str, Any]:
        """The data of the next event, its id beside it; comments are passed over."""
        while not (block := await self.block()).startswith("id: "):
            pass
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        assert lines["event"] == "counters"
        return {"id": lines["id"], **json.loads(lines["data"])}


@asynccontextmanager
async def watching(app: FastAPI, who: Customer, **headers: str) -> AsyncIterator[Stream]:
    stream, left = Stream(), asyncio.Event()
    asked = {**who.headers, **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/api/v1/usage/stream", "raw_path": b"/api/v1/usage/stream", "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("tallystick.test", 80), "headers": [(n.lower().encode(), v.encode()) for n, v in asked.items()],
    }  # fmt: skip

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            stream.status = message["status"]
            stream.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            for block in message.get("body", b"").decode().split("\n\n"):
                if block:
                    stream.blocks.put_nowait(block)

    async def answer() -> None:
        await app(scope, receive, send)
        stream.ended.set()

    task = asyncio.create_task(answer())
    try:
        yield stream
    finally:
        left.set()
        async with asyncio.timeout(SOON):
            await task


@pytest.fixture(autouse=True)
def quickly(app: FastAPI) -> Iterator[None]:
    """Look at the counters more often than usual."""
    parts_of(app).live.look_seconds = 0.02
    yield
    assert parts_of(app).live._watching.total() == 0


async def use(pool: Pool, who: Customer, requests: int) -> None:
    await pool.execute("UPDATE subscriptions SET used_requests = $2 WHERE id = $1", who.subscription_id, requests)


async def test_all_at_first_and_then_what_changes(app: FastAPI, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer(quota_requests=10)
    async with database_pool.acquire() as connection:
        second = await make_subscription(connection, ada.user_id)
    async with watching(app, ada) as stream:
        assert (await stream.block()).startswith("retry: ")
        first = await stream.counters()
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert {each["subscription_id"] for each in first["subscriptions"]} == {str(ada.subscription_id), str(second)}
        await use(database_pool, ada, 4)
        [changed] = (await stream.counters())["subscriptions"]
        assert (changed["subscription_id"], changed["requests"]) == (
            str(ada.subscription_id),
            {"quota": 10, "used": 4, "remaining": 6},
        )
        await use(database_pool, ada, 10)
        [changed] = (await stream.counters())["subscriptions"]
        assert (changed["status"], changed["suspended_reasons"]) == ("suspended", ["quota_requests"])


async def test_who_comes_back_hears_what_is_new_only(app: FastAPI, facts: Facts, database_pool: Pool) -> None:
    ada = await facts.customer()
    async with watching(app, ada) as stream:
        known = (await stream.counters())["id"]
    async with watching(app, ada, **{"Last-Event-ID": known}) as stream:
        assert (await stream.block()).startswith("retry: ")
        assert (await stream.block()) == ": nothing new"
        await use(database_pool, ada, 1)
        assert (await stream.counters())["subscriptions"][0]["requests"]["used"] == 1
    async with watching(app, ada, **{"Last-Event-ID": known}) as stream:
        assert (await stream.counters())["subscriptions"][0]["requests"]["used"] == 1


async def test_silence_is_broken_by_comments(app: FastAPI, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SILENCE_SECONDS", 0.01)
    async with watching(app, await facts.customer()) as stream:
        await stream.counters()
        assert [await stream.block() for _ in range(3)] == [": nothing new"] * 3


async def test_a_stream_ends_after_a_while(app: FastAPI, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SILENCE_SECONDS", 0.01)
    monkeypatch.setattr(streaming, "STREAM_SECONDS", 0.02)
    async with watching(app, await facts.customer()) as stream, asyncio.timeout(SOON):
        await stream.ended.wait()


async def test_there_are_only_so_many_streams(app: FastAPI, client: httpx.AsyncClient, facts: Facts) -> None:
    ada, bob = await facts.customer(), await facts.customer()
    parts_of(app).live.most_each, parts_of(app).live.most = 1, 2
    async with watching(app, ada) as one:
        await one.counters()
        refused = await client.get("/api/v1/usage/stream", headers=ada.headers)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:tallystick:problem:rate-limited")
        assert "retry-after" in refused.headers
        async with watching(app, bob) as two:
            await two.counters()
            assert (
                await client.get("/api/v1/usage/stream", headers=(await facts.customer()).headers)
            ).status_code == 429
    async with watching(app, ada) as again:
        await again.counters()


async def test_counters_are_told_again_after_the_database_was_away(
    app: FastAPI, facts: Facts, database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, live = await facts.customer(), parts_of(app).live
    asked = asyncio.Event()

    async def away(*_: Any, **__: Any) -> None:
        asked.set()
        raise ConnectionRefusedError("no database")

    async with watching(app, ada) as stream:
        await stream.counters()
        with monkeypatch.context() as patched:
            patched.setattr(type(live), "_look", away)
            async with asyncio.timeout(SOON):
                await asked.wait()
        await use(database_pool, ada, 3)
        assert (await stream.counters())["subscriptions"][0]["requests"]["used"] == 3


async def test_streams_end_with_the_server(app: FastAPI, facts: Facts) -> None:
    ada, port = await facts.customer(), ports.choose()
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, timeout_graceful_shutdown=60)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    url = f"http://127.0.0.1:{port}/api/v1/usage/stream"
    async with asyncio.timeout(SOON), httpx.AsyncClient() as client:
        async with client.stream("GET", url, headers=ada.headers) as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("retry:")
            parts_of(app).live.end()
            assert [line async for line in lines if line.startswith("event")] in ([], ["event: counters"])
        await server.shutdown()
