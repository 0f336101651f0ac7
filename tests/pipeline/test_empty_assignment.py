"""A worker that its group gives nothing, although there is something to give, does not stay so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.consumer import ExactlyOnceConsumer
from shared.contracts import USAGE_EVENTS
from shared.kafka import Subscription, make_broker, subscribe
from shared.membership import PATIENCE
from shared.metrics import ConsumerMetrics
from shared.positions import Positions
from shared.postgres import Pool
from shared.settings import KafkaSettings

PARTITIONS = 2


@pytest.fixture
async def admin(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    yield admin
    await admin.close()


@asynccontextmanager
async def reading(bootstrap: str, prefix: str, pool: Pool, instance: str = "0") -> AsyncIterator[ExactlyOnceConsumer]:
    """A worker's consumer, in its group as a static member. It applies nothing: the topic stays empty."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix)
    broker = make_broker(settings, client_id=f"test-{instance}")
    consumer = ExactlyOnceConsumer(
        pool=pool,
        positions=Positions("ingest_positions", cluster="main"),
        apply=None,  # type: ignore[arg-type]
        metrics=ConsumerMetrics(USAGE_EVENTS),
    )
    subscribe(broker, consumer, Subscription(USAGE_EVENTS, "readers", instance, 100))
    await broker.start()
    try:
        yield consumer
    finally:
        await consumer.close()
        await broker.stop()


async def until(holds: Callable[[], bool], seconds: float = 25) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 – the broker tells nobody
            await asyncio.sleep(0.05)


async def make(admin: AIOKafkaAdminClient, topic: str) -> None:
    """Make a topic whose deletion may still be under way."""
    async with asyncio.timeout(20):
        while True:
            answer = await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
            if answer.topic_errors[0][1] == 0:
                return
            await asyncio.sleep(0.1)


async def test_a_worker_that_started_while_its_topic_was_away_gets_its_partitions(
    kafka_bootstrap: str, topic_prefix: str, database_pool: Pool, admin: AIOKafkaAdminClient
) -> None:
    topic = topic_prefix + USAGE_EVENTS
    await make(admin, topic)
    async with reading(kafka_bootstrap, topic_prefix, database_pool) as consumer:
        await until(lambda: consumer.not_ready is None and len(consumer._partitions) == PARTITIONS)
        await admin.delete_topics([topic])
        await until(lambda: not consumer._partitions)  # the group has shared out what there is: nothing
    await make(admin, topic)

    async with reading(kafka_bootstrap, topic_prefix, database_pool) as consumer:
        await until(lambda: consumer._joined)
        assert not consumer._partitions, "the group remembers that this member had nothing"
        for _ in range(PATIENCE + 1):
            await consumer.look()
            if not consumer._partitions:
                assert (
                    consumer.not_ready is None
                    or "nobody in the group" in consumer.not_ready
                    or "not in its group" in consumer.not_ready
                )
            try:
                await until(lambda: len(consumer._partitions) == PARTITIONS, 3)
                break
            except TimeoutError:
                continue
        await until(lambda: consumer.not_ready is None)
        assert len(consumer._partitions) == PARTITIONS
    await admin.delete_topics([topic])


async def test_a_spare_worker_stays_a_spare(
    kafka_bootstrap: str, topic_prefix: str, database_pool: Pool, admin: AIOKafkaAdminClient
) -> None:
    topic = topic_prefix + USAGE_EVENTS
    await make(admin, topic)
    async with (
        reading(kafka_bootstrap, topic_prefix, database_pool, "a") as one,
        reading(kafka_bootstrap, topic_prefix, database_pool, "b") as two,
        reading(kafka_bootstrap, topic_prefix, database_pool, "c") as three,
    ):
        workers = [one, two, three]
        await until(
            lambda: (
                sorted(len(w._partitions) for w in workers) == [0, 1, 1] and all(w.not_ready is None for w in workers)
            )
        )
        for worker in workers:
            await worker.look()
            assert worker.membership is not None
            assert (worker.membership.problem, worker.membership._found, worker.lost) == (None, 0, None)
    await admin.delete_topics([topic])


async def test_a_client_whose_coordination_ended_is_lost(
    kafka_bootstrap: str, topic_prefix: str, database_pool: Pool, admin: AIOKafkaAdminClient
) -> None:
    topic = topic_prefix + USAGE_EVENTS
    await make(admin, topic)
    async with reading(kafka_bootstrap, topic_prefix, database_pool) as consumer:
        await until(lambda: consumer.not_ready is None)
        task = consumer._consumer._coordinator._coordination_task
        task.cancel()
        await asyncio.wait([task])
        await consumer.look()
        assert "has left the group" in str(consumer.lost)
    await admin.delete_topics([topic])
