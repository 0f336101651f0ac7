"""How many partitions topics have, and which of them must not have fewer than others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, NoError, for_code

from shared.contracts import USAGE_EVENTS, USAGE_RECORDED
from shared.errors import ConfigurationError
from shared.kafka import kafka_unavailable
from shared.kafka_security import client_security
from shared.settings import KafkaSettings

FOLLOWS: Final = {USAGE_RECORDED: USAGE_EVENTS}
"""Topics that need at least as many partitions as another: a batch is announced on the partition that it was read from."""


SEEN_SECONDS = 30.0
"""How long brokers may take to hear of new partitions."""


class TooShort(NamedTuple):
    """A topic that has fewer partitions than its source."""

    topic: str
    partitions: int
    source: str
    wanted: int


def too_short(partitions: Mapping[str, int], *, at_least: int = 0) -> list[TooShort]:
    """Return the topics that have too few partitions, in the order in which they may grow: who follows comes before its source.

    `partitions` are counts by plain name; topics not in it are left out. A source shall have `at_least` so many.
    """
    wanted = {source: max(at_least, partitions.get(source, 0)) for source in FOLLOWS.values()}
    sources = {**FOLLOWS, **{source: source for source in wanted}}
    return [
        TooShort(topic, partitions[topic], source, wanted[source])
        for topic, source in sources.items()
        if topic in partitions and source in partitions and partitions[topic] < wanted[source]
    ]


async def count_partitions(settings: KafkaSettings) -> dict[str, int]:
    """Return how many partitions each topic has that we may see. Waits a little for a broker; raises `ServiceUnavailable`."""
    bootstrap_servers, security = settings.kafka_bootstrap_servers, client_security(settings)
    deadline = monotonic() + settings.kafka_startup_seconds
    while True:
        client = AIOKafkaClient(bootstrap_servers=bootstrap_servers, **security)
        try:
            await client.bootstrap()
            metadata = await client.fetch_all_metadata()
            return {topic: len(metadata.partitions_for_topic(topic) or ()) for topic in metadata.topics()}
        except (KafkaError, OSError) as error:
            if monotonic() > deadline:
                raise kafka_unavailable(bootstrap_servers, error) from error
            await asyncio.sleep(0.5)
        finally:
            await client.close()


async def find_too_short(settings: KafkaSettings, *, at_least: int = 0) -> list[TooShort]:
    """Return the topics of this pipeline that have too few partitions, as `too_short` does."""
    partitions, prefix = await count_partitions(settings), settings.kafka_topic_prefix
    ours = {name.removeprefix(prefix): n for name, n in partitions.items() if name.startswith(prefix)}
    return too_short(ours, at_least=at_least)


async def grow(settings: KafkaSettings, short: TooShort) -> None:
    """Give a topic the partitions that it lacks. Raises `ConfigurationError` with the broker's reason if it will not."""
    name = settings.kafka_topic_prefix + short.topic
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers, **client_security(settings))
    try:
        await admin.start()
        answer = await admin.create_partitions({name: NewPartitions(short.wanted)})
    except KafkaError as error:
        raise kafka_unavailable(settings.kafka_bootstrap_servers, error) from error
    finally:
        await admin.close()
    for topic, code, reason in answer.topic_errors:
        if (kind := for_code(code)) is not NoError:
            raise ConfigurationError(f"Kafka did not give {topic} more partitions ({kind.__name__}): {reason}")
    async with asyncio.timeout(SEEN_SECONDS):
        while (await count_partitions(settings))[name] < short.wanted:  # noqa: ASYNC110 – the broker hears of it from the controller
            await asyncio.sleep(0.1)
