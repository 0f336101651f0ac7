"""From an HTTP request to usage, with everything in between as it runs in production: the API, Kafka, ingest, the aggregator, Postgres."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final
from uuid import UUID

import httpx

from deploy.local import ports
from services.cli.supervisor import WorkerSpec
from shared.clock import FixedClock
from shared.ids import uuid7
from tests.integration.api.facts import Facts
from tests.pipeline.broker_proxy import proxy_of
from tests.pipeline.running import Pipeline, workers
from tests.unit.ingest.events import document

VISIBLE_SECONDS: Final = 3.0
_USED: Final = "SELECT coalesce(sum(request_count), 0)::bigint FROM usage_summaries WHERE subscription_id = $1 AND period_type = 'hour'"


def event(subscription: UUID) -> dict[str, Any]:
    return document(id=str(uuid7()), subject=str(subscription), time=datetime.now(UTC).isoformat())


async def send(client: httpx.AsyncClient, events: Sequence[dict[str, Any]]) -> httpx.Response:
    content = gzip.compress(json.dumps(events).encode())
    return await client.post("/api/v1/events", content=content)


@asynccontextmanager
async def running_api(pipeline: Pipeline, **variables: str) -> AsyncIterator[str]:
    """Run the API beside the workers; yield its address."""
    port = ports.choose()
    api = WorkerSpec("services.api", 0, ports.choose(), {"TALLYSTICK_API_PORT": str(port), **variables})
    async with pipeline.running(*workers(ingest=1, aggregator=1, billing=1), api):
        yield f"http://127.0.0.1:{port}"


async def used(pipeline: Pipeline, subscription: UUID, count: int, seconds: float) -> float:
    """Return in how many seconds so many requests are in usage; fail if it takes longer than allowed, or if there are more."""
    begun = monotonic()
    while (found := await pipeline.pool.fetchval(_USED, subscription)) != count:
        assert monotonic() - begun < seconds, f"{found} of {count} are in usage after {seconds} s"
        await asyncio.sleep(0.02)
    return monotonic() - begun


async def test_what_is_sent_is_in_usage_within_seconds_and_what_kafka_does_not_take_is_told(pipeline: Pipeline) -> None:
    facts = Facts(pipeline.pool, FixedClock(datetime.now(UTC)))
    gateway, ada = await facts.customer("service"), await facts.customer()
    headers = {**gateway.headers, "Content-Type": "application/cloudevents-batch+json", "Content-Encoding": "gzip"}
    async with (
        proxy_of(pipeline.kafka.kafka_bootstrap_servers) as broker,
        running_api(pipeline, KAFKA_BOOTSTRAP_SERVERS=broker.address, TALLYSTICK_API_ACK_SECONDS="3") as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client,
    ):
        first = await send(client, [event(ada.subscription_id)])  # whose partition the workers then have
        assert first.status_code == 200, first.text
        await used(pipeline, ada.subscription_id, 1, 30)

        many = [event(ada.subscription_id) for _ in range(1_000)]
        assert (await send(client, many)).json()["accepted"] == 1_000
        await used(pipeline, ada.subscription_id, 1_001, VISIBLE_SECONDS)

        broker.mute = True
        later = [event(ada.subscription_id) for _ in range(10)]
        refused = await send(client, later)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:tallystick:problem:unavailable")
        assert refused.headers["retry-after"] == "5"
        broker.mute = False
        broker.cut()
        again = await send(client, later + many[:100])
        assert (again.status_code, again.json()["accepted"]) == (200, 10), "what was refused is not taken for sent"
        await used(pipeline, ada.subscription_id, 1_011, 30)
        await pipeline.caught_up()
    assert await pipeline.pool.fetchval(_USED, ada.subscription_id) == 1_011
    assert await pipeline.broken_checks() == []
