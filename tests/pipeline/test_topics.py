"""The topics are made as planned, once, and a broker that will not make one is believed."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from services.cli import main
from shared.contracts import USAGE_DEAD_LETTER, USAGE_EVENTS, USAGE_RECORDED
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.kafka import create_topics, topic_plan
from shared.settings import KafkaSettings
from shared.startup import check_kafka
from shared.topics import count_partitions, find_too_short, grow
from tests.conftest import CreateTopic


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


async def test_ingest_does_not_start_while_its_announcements_have_too_few_partitions(
    kafka_bootstrap: str, create_topic: CreateTopic, topic_prefix: str
) -> None:
    await create_topic(USAGE_EVENTS, partitions=3)
    await create_topic(USAGE_RECORDED, partitions=2)
    settings = KafkaSettings(kafka_bootstrap_servers=kafka_bootstrap, kafka_topic_prefix=topic_prefix)
    async with asyncio.timeout(10):
        while len([name for name in await count_partitions(settings) if name.startswith(topic_prefix)]) < 2:  # noqa: ASYNC110 – the broker hears of them from the controller
            await asyncio.sleep(0.05)
    with pytest.raises(
        ConfigurationError, match=r"usage\.recorded has 2 partitions, .*usage\.events has 3.*tallystick topics --grow"
    ):
        await check_kafka(settings, [USAGE_EVENTS, USAGE_RECORDED])
    await check_kafka(settings, [USAGE_RECORDED])  # who only reads it does not mind

    [short] = await find_too_short(settings)
    await grow(settings, short)
    await check_kafka(settings, [USAGE_EVENTS, USAGE_RECORDED])
    assert await find_too_short(settings) == []


def test_the_command_says_what_is_too_short_and_mends_it(
    kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("TALLYSTICK_KAFKA_TOPIC_PREFIX", topic_prefix)
    asyncio.run(make_topics(kafka_bootstrap, {topic_prefix + USAGE_EVENTS: 3, topic_prefix + USAGE_RECORDED: 1}))
    try:
        assert main.run(["topics"]) == 1
        assert "usage.recorded has 1 partitions, usage.events has 3: repeat with --grow" in capsys.readouterr().err
        assert main.run(["topics", "--grow"]) == 0
        assert "usage.recorded grew from 1 to 3 partitions" in capsys.readouterr().out
        assert main.run(["topics"]) == 0
        capsys.readouterr()
        assert main.run(["topics", "--grow", "--partitions", "4"]) == 0
        said = capsys.readouterr().out
        recorded, events = (said.find(f"{name} grew from 3 to 4 partitions") for name in (USAGE_RECORDED, USAGE_EVENTS))
        assert 0 < recorded < events, "ingest does not start while there are fewer of usage.recorded"
        assert main.run(["topics", "--grow", "--partitions", "2"]) == 0
        assert "grew" not in capsys.readouterr().out, "there is no way to have fewer"
    finally:
        asyncio.run(delete_topics(kafka_bootstrap, [topic_prefix + name for name in topic_plan(1)]))


async def make_topics(bootstrap: str, topics: dict[str, int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1) for name, partitions in topics.items()])
    await admin.close()


async def delete_topics(bootstrap: str, topics: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_topics(topics)
    await admin.close()
