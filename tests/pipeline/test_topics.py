"""The topics are made as planned, once, and a broker that will not make one is believed."""

from __future__ import annotations

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from shared.contracts import USAGE_DEAD_LETTER, USAGE_EVENTS, USAGE_RECORDED
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.kafka import create_topics, topic_plan


async def test_missing_topics_are_made_and_the_others_left_alone(kafka_bootstrap: str, topic_prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        made = await create_topics(kafka_bootstrap, partitions=2, prefix=topic_prefix)
        assert sorted(made) == sorted(topic_prefix + name for name in topic_plan(2))
        assert await create_topics(kafka_bootstrap, partitions=5, prefix=topic_prefix) == []

        described = await admin.describe_topics(
            [topic_prefix + name for name in (USAGE_EVENTS, USAGE_RECORDED, USAGE_DEAD_LETTER)]
        )
        assert [len(topic["partitions"]) for topic in described] == [2, 2, 1]
    finally:
        await admin.delete_topics([topic_prefix + name for name in topic_plan(2)])
        await admin.close()


async def test_a_topic_that_the_broker_will_not_make_is_an_error(kafka_bootstrap: str, topic_prefix: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"Kafka did not make the topic .* \(InvalidReplicationFactorError\): .*1"
    ):
        await create_topics(kafka_bootstrap, partitions=1, replication_factor=3, prefix=topic_prefix)


async def test_a_broker_that_does_not_answer_is_told_in_one_line() -> None:
    with pytest.raises(
        ServiceUnavailable, match=r"Kafka does not answer at localhost:1 .*check KAFKA_BOOTSTRAP_SERVERS"
    ):
        await create_topics("localhost:1", partitions=1)
