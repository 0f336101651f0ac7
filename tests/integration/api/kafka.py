"""An application that publishes to a topic of the test's own, and what arrives there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from fastapi import FastAPI

from services.api.app import build
from services.api.settings import Settings
from shared.clock import FixedClock
from shared.contracts import USAGE_EVENTS
from shared.postgres import create_pool


@dataclass(frozen=True, slots=True)
class Way:
    """The way from HTTP to Kafka: a client, and the topic behind it."""

    app: FastAPI
    client: httpx.AsyncClient
    bootstrap: str
    prefix: str

    async def published(self) -> list[tuple[str | None, dict[str, Any]]]:
        """Return key and event of all records, in the order of partitions and offsets."""
        consumer = AIOKafkaConsumer(
            self.prefix + USAGE_EVENTS, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            ends = await consumer.end_offsets(sorted(consumer.assignment()))
            records = [await _read(consumer, partition, end) for partition, end in ends.items()]
            return [
                (record.key and record.key.decode(), json.loads(record.value)) for found in records for record in found
            ]
        finally:
            await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, partition: TopicPartition, end: int) -> list[ConsumerRecord[bytes, bytes]]:
    found = []
    while await consumer.position(partition) < end:
        found.append(await consumer.getone(partition))
    return found


@asynccontextmanager
async def way(database: str, bootstrap: str, prefix: str, clock: FixedClock, **settings: Any) -> AsyncIterator[Way]:
    """Run the application against a broker, and ask it without a network."""
    known: Any = {
        "database_url": database,
        "kafka_bootstrap_servers": bootstrap,
        "kafka_topic_prefix": prefix,
        "api_key_cache_seconds": 0,
        **settings,
    }
    pool = await create_pool(database, application_name="tests", role="tallystick_api")
    app = build(Settings(**known), pool, clock)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://tallystick.test") as client,
    ):
        yield Way(app, client, bootstrap, prefix)
    await pool.close()
