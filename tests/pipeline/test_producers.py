"""Producers against the API as it runs: what they were told is accepted is in the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final
from uuid import UUID

from deploy.local import ports
from services.accounts.api_keys.keys import hash_of, new_key, prefix_of
from services.cli.demo.watch import Watch
from services.cli.supervisor import WorkerSpec
from shared.ids import uuid7
from tallystick.client import AsyncClient, Client
from tests.pipeline.ingest_worker import STORED
from tests.pipeline.running import Pipeline, workers

EVENTS: Final = 300


async def make_key(pipeline: Pipeline, subscription: UUID, *, service: bool) -> str:
    """Make an API key of the subscription, whose user gets the role `service`, or not."""
    key = new_key()
    await pipeline.pool.execute(
        "INSERT INTO api_keys (id, subscription_id, name, key_hash, key_prefix) VALUES ($1, $2, 'producer', $3, $4)",
        uuid7(), subscription, hash_of(key, ""), prefix_of(key),
    )  # fmt: skip
    if service:
        await pipeline.pool.execute(
            "UPDATE users SET roles = ARRAY['user', 'service'] WHERE id = (SELECT user_id FROM subscriptions WHERE id = $1)",
            subscription,
        )
    return key


async def stored(pipeline: Pipeline) -> None:
    """Return when ingest has stored all that is in the topic."""
    end = await Watch(pipeline.pool, pipeline.kafka).end()
    async with asyncio.timeout(60):
        while await pipeline.pool.fetchval(STORED) < end:  # noqa: ASYNC110 – another process moves it
            await asyncio.sleep(0.05)


async def test_what_the_clients_send_is_in_the_log_once(pipeline: Pipeline, tmp_path: Path) -> None:
    port = ports.choose()
    api = WorkerSpec("services.api", 0, ports.choose(), {"TALLYSTICK_API_PORT": str(port)})
    url = f"http://127.0.0.1:{port}"
    first, second = await pipeline.pool.fetch(
        "SELECT id FROM subscriptions WHERE status = 'active' ORDER BY id LIMIT 2"
    )
    gateway, tenant = (
        await make_key(pipeline, first["id"], service=True),
        await make_key(pipeline, second["id"], service=False),
    )

    async with pipeline.running(*workers(ingest=1), api):
        async with AsyncClient(
            Client.over_http(url, gateway, source="/gateways/test", spool=tmp_path / "gateway")
        ) as client:
            recorded = {
                await client.record(subscription=str(second["id"]), model="gpt-4o", request_tokens=n)
                for n in range(EVENTS)
            }
            await client.record(subscription=str(second["id"]), model="gpt-4o", event_id="twice", request_tokens=1)
            await client.flush()
        async with AsyncClient(
            Client.over_http(url, tenant, source="/apps/test", spool=tmp_path / "tenant", tenant=True)
        ) as client:
            await client.record(model="gpt-4o", request_tokens=7)
            await client.record(model="gpt-4o", subscription=str(first["id"]))  # another's
            await client.flush()
            assert (client.client.delivery.delivered, client.client.delivery.rejected) == (1, 1)
        await stored(pipeline)

    rows = await pipeline.pool.fetch("SELECT request_id, subscription_id, request_tokens FROM usage_logs")
    assert {row["subscription_id"] for row in rows} == {second["id"]}
    assert {row["request_id"] for row in rows} >= recorded | {"twice"}
    assert (len(rows), sum(row["request_tokens"] for row in rows)) == (EVENTS + 2, sum(range(EVENTS)) + 1 + 7)
