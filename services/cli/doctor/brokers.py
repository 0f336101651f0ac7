"""Reads the facts of Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import time
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from services.cli.doctor.facts import Kafka, Partition, Topic
from shared.kafka import kafka_unavailable
from shared.kafka_security import client_security
from shared.settings import KafkaSettings

TIMEOUT_SECONDS: Final = 30.0


async def read(settings: KafkaSettings, names: Sequence[str]) -> Kafka:
    """Ask the brokers about our topics; those that do not exist are left out. Raises `ServiceUnavailable`."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await _read(settings, names)
    except (KafkaError, OSError, TimeoutError) as error:
        raise kafka_unavailable(settings.kafka_bootstrap_servers, error) from error


async def _read(settings: KafkaSettings, names: Sequence[str]) -> Kafka:
    where: dict[str, Any] = {"bootstrap_servers": settings.kafka_bootstrap_servers, **client_security(settings)}
    prefix = settings.kafka_topic_prefix
    admin, consumer = AIOKafkaAdminClient(**where), AIOKafkaConsumer(**where)
    try:
        await admin.start()
        await consumer.start()
        brokers = len((await admin.describe_cluster())["brokers"])
        found = {
            topic["topic"].removeprefix(prefix): topic["partitions"]
            for topic in await admin.describe_topics([prefix + name for name in names])
            if not topic["error_code"]
        }
        configs = await _settings(admin, [prefix + name for name in found]) if found else {}
        topics = {
            name: Topic(
                name,
                await _partitions(consumer, prefix + name, partitions, configs.get(prefix + name, {})),
                configs.get(prefix + name, {}),
            )
            for name, partitions in found.items()
        }
        return Kafka(brokers, topics)
    finally:
        await consumer.stop()
        await admin.close()


async def _settings(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics])
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for answer in answers
        for resource in answer.resources
        if not resource[0]
    }


async def _partitions(
    consumer: AIOKafkaConsumer, topic: str, described: Sequence[Mapping[str, Any]], settings: Mapping[str, str]
) -> tuple[Partition, ...]:
    at = {each["partition"]: TopicPartition(topic, each["partition"]) for each in described}
    first, end = await consumer.beginning_offsets(list(at.values())), await consumer.end_offsets(list(at.values()))
    retention = int(settings.get("retention.ms", "-1"))
    middle: Mapping[TopicPartition, Any] = {}
    if retention > 0:
        half_ago = int(time() * 1000) - retention // 2
        middle = await consumer.offsets_for_times(dict.fromkeys(at.values(), half_ago))
    return tuple(
        Partition(
            number=each["partition"],
            first_offset=first[at[each["partition"]]],
            end_offset=end[at[each["partition"]]],
            replicas=len(each["replicas"]),
            in_sync=len(each["isr"]),
            middle_offset=_offset(middle.get(at[each["partition"]]), end[at[each["partition"]]], retention),
        )
        for each in sorted(described, key=lambda each: each["partition"])
    )


def _offset(found: Any, end: int, retention: int) -> int | None:
    """Return the first offset that is younger than half of the retention: the end, if there is nothing so young."""
    if retention <= 0:
        return None
    return end if found is None else int(found.offset)
