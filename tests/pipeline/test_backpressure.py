"""A slow or absent database holds consumption up, in memory that does not grow, and nobody has to help when it is back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from shared.consumer import AfterCommit, ExactlyOnceConsumer, Slice
from shared.contracts import USAGE_EVENTS
from shared.kafka import Subscription, make_broker, subscribe
from shared.metrics import ConsumerMetrics
from shared.positions import Positions
from shared.postgres import Connection, Pool
from shared.settings import KafkaSettings
from tests.conftest import CreateTopic

PARTITIONS, RECORDS, RECORD_BYTES = 2, 2_400, 25_000
BACKLOG_BYTES = PARTITIONS * RECORDS * RECORD_BYTES
MAY_GROW_BYTES = BACKLOG_BYTES // 2
"""Two fetches of 6 MiB of each partition, several times over: the interpreter's own, and copies on their way."""
WATCHED_SECONDS = 3.0


@dataclass
class Database:
    """Counts records, advances positions; is slow, or away, as a test says."""

    slow: asyncio.Event | None = None
    away: bool = False
    applying: asyncio.Event = field(default_factory=asyncio.Event)
    seen: int = 0

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        self.applying.set()
        if self.slow:
            await self.slow.wait()
        if self.away:
            raise ConnectionError("the database is away")
        at = batch.position
        await connection.execute(
            "UPDATE ingest_positions SET next_offset = $2, inserted = inserted + $3 WHERE partition = $1",
            at.partition, batch.next_offset, len(batch.records),
        )  # fmt: skip

        async def after() -> None:
            self.seen += len(batch.records)

        return after


@pytest.fixture
async def backlog(kafka_bootstrap: str, create_topic: CreateTopic) -> None:
    topic = await create_topic(USAGE_EVENTS, partitions=PARTITIONS)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, max_batch_size=900_000)
    await producer.start()
    for partition in range(PARTITIONS):
        for _ in range(RECORDS):
            await producer.send(topic, b"x" * RECORD_BYTES, partition=partition)
    await producer.stop()


@asynccontextmanager
async def reading(bootstrap: str, prefix: str, pool: Pool, database: Database) -> AsyncIterator[ExactlyOnceConsumer]:
    broker = make_broker(KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix), client_id="test")
    consumer = ExactlyOnceConsumer(
        pool=pool,
        positions=Positions("ingest_positions", cluster="main"),
        apply=database,
        metrics=ConsumerMetrics(USAGE_EVENTS),
    )
    subscribe(broker, consumer, Subscription(USAGE_EVENTS, "readers", "0", 500))
    await broker.start()
    try:
        yield consumer
    finally:
        await consumer.close()
        await broker.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 – nobody sets an event for it
            await asyncio.sleep(0.05)


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def most_memory() -> int:
    """Return the most memory that this process has within some seconds."""
    most = memory_bytes()
    for _ in range(int(WATCHED_SECONDS / 0.1)):
        await asyncio.sleep(0.1)
        most = max(most, memory_bytes())
    return most


@pytest.mark.usefixtures("backlog")
async def test_a_slow_database_holds_consumption_up_in_flat_memory(
    kafka_bootstrap: str, topic_prefix: str, database_pool: Pool
) -> None:
    database = Database(slow=asyncio.Event())
    before = memory_bytes()
    async with reading(kafka_bootstrap, topic_prefix, database_pool, database) as consumer:
        await asyncio.wait_for(database.applying.wait(), 30)
        try:
            assert await most_memory() - before < MAY_GROW_BYTES
            assert database.seen == 0
            assert await consumer.lag() > 0
        finally:  # else closing the consumer waits for what is under way
            assert database.slow is not None
            database.slow.set()
        await until(lambda: database.seen == PARTITIONS * RECORDS)
        assert consumer.not_ready is None


@pytest.mark.usefixtures("backlog")
async def test_while_the_database_is_away_nothing_is_fetched_and_readiness_tells(
    kafka_bootstrap: str, topic_prefix: str, database_pool: Pool
) -> None:
    database = Database(away=True)
    before = memory_bytes()
    async with reading(kafka_bootstrap, topic_prefix, database_pool, database) as consumer:
        await asyncio.wait_for(database.applying.wait(), 30)
        await until(lambda: consumer.not_ready is not None)
        assert "not synced" in str(consumer.not_ready)
        assert await most_memory() - before < MAY_GROW_BYTES
        database.away = False
        await until(lambda: database.seen == PARTITIONS * RECORDS)
        await until(lambda: consumer.not_ready is None)
    totals = await database_pool.fetchrow(
        "SELECT sum(next_offset) AS next, sum(inserted) AS inserted FROM ingest_positions"
    )
    assert (totals["next"], totals["inserted"]) == (PARTITIONS * RECORDS, PARTITIONS * RECORDS)
