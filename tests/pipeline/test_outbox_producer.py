"""The producer of an outbox against a real broker: what it takes is acknowledged, what it refuses is told by name."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from faststream.kafka import KafkaBroker

from shared.kafka import OutboxProducer, make_broker
from shared.outbox import Message, NotAcknowledged
from shared.settings import KafkaSettings
from tests.conftest import CreateTopic


@pytest_asyncio.fixture
async def broker(kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[KafkaBroker]:
    settings = KafkaSettings(kafka_bootstrap_servers=kafka_bootstrap, kafka_topic_prefix=topic_prefix)
    broker = make_broker(settings, client_id="tests")
    await broker.start()
    yield broker
    await broker.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """The first `count` records of a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_messages_arrive_whole_and_in_order(
    broker: KafkaBroker, kafka_bootstrap: str, create_topic: CreateTopic
) -> None:
    topic = await create_topic("out")
    sent = [Message("out", b"%d" % n, key=b"\x00\xff", partition=0, headers={"n": f"é{n}"}) for n in range(100)]
    await OutboxProducer(broker)([*sent, Message("out", None, key=b"k"), Message("out", b"", key=b"k")])

    got = await read(kafka_bootstrap, topic, 102)
    assert [(r.key, r.value, dict(r.headers)["n"]) for r in got[:100]] == [
        (m.key, m.value, m.headers["n"].encode()) for m in sent
    ]
    assert [r.value for r in got[100:]] == [None, b""], "a tombstone is one"


async def test_a_message_too_large_for_its_topic_is_told_by_id_and_the_others_arrive(
    broker: KafkaBroker, kafka_bootstrap: str, create_topic: CreateTopic
) -> None:
    topic = await create_topic("out")
    for_the_broker, for_the_client = Message("out", os.urandom(2**21)), Message("out", bytes(17 * 2**20))
    produce = OutboxProducer(broker)
    for attempt in range(3):
        with pytest.raises(NotAcknowledged, match=r"2 of 4 messages were refused: .*MessageSizeTooLarge") as refused:
            await produce(
                [Message("out", b"a%d" % attempt), for_the_broker, for_the_client, Message("out", b"b%d" % attempt)]
            )
        assert set(refused.value.refused) == {for_the_broker.id, for_the_client.id}

    got = await read(kafka_bootstrap, topic, 6)
    assert [r.value for r in got] == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
