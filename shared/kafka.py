"""Kafka: the broker factory, the raw decoder that never raises, topics, and the producer of an outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, NoError, TopicAlreadyExistsError, for_code
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER

from shared import tracing
from shared.consumer import ExactlyOnceConsumer
from shared.contracts import (
    BILLING_EVENTS,
    COMPACTED_TOPICS,
    SUBSCRIPTION_STATUS,
    USAGE_DEAD_LETTER,
    USAGE_EVENTS,
    USAGE_RECORDED,
)
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.fetching import tolerate_header_names
from shared.kafka_security import broker_security
from shared.membership import Membership
from shared.outbox import Message, NotAcknowledged
from shared.settings import KafkaSettings

PARTITION_FETCH_BYTES = 6 * 2**20
"""Most bytes that one fetch brings from one partition: about 9,000 events of 670 bytes, a batch."""
FETCH_BYTES = 2 * PARTITION_FETCH_BYTES
"""Most bytes that one fetch brings from one broker: enough for two lanes while the third commits. More would only wait, in memory."""


CONTENT_TYPE_JSON = "application/json"
"""What our messages are, unless they say otherwise in a header of their own."""

LARGEST_MESSAGE_BYTES = 16 * 2**20
"""Largest message that we publish: a dead letter carries a record of any size that the broker let in."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """How one service reads one topic."""

    topic: str
    group_id: str
    instance: str
    max_records: int
    batch_timeout_ms: int = 50


def make_broker(settings: KafkaSettings, *, client_id: str) -> KafkaBroker:
    """Return a FastStream broker that publishes with acks=all and touches no message body.

    Not with aiokafka's idempotence: once the broker has refused one batch (too large, not authorised), every later message
    to that partition fails with OutOfOrderSequenceNumber until the process ends (tried with 0.14). Consumers are
    idempotent by the ids inside the messages; order within a partition holds, for aiokafka sends one batch at a time.

    Raises `ConfigurationError` for settings of security that do not fit together.
    """
    broker = KafkaBroker(
        settings.kafka_bootstrap_servers.split(","),
        client_id=client_id,
        security=broker_security(settings),
        acks="all",
        linger_ms=2,
        max_request_size=LARGEST_MESSAGE_BYTES,
        allow_auto_create_topics=False,
        apply_types=False,
        logger=logging.getLogger("broker"),  # its warnings: what it swallows must be seen
    )
    broker.config.broker_config.prefix = settings.kafka_topic_prefix  # FastStream puts it before what is subscribed
    return broker


def subscribe(broker: KafkaBroker, consumer: ExactlyOnceConsumer, how: Subscription) -> None:
    """Let `consumer` read a topic. Static membership: a restarted worker gets its partitions back without a rebalance."""
    tolerate_header_names()
    group_id = broker.config.prefix + how.group_id
    subscriber = broker.subscriber(
        how.topic,
        batch=True,
        group_id=group_id,
        group_instance_id=f"{group_id}-{how.instance}",
        ack_policy=AckPolicy.MANUAL,
        auto_offset_reset="earliest",
        isolation_level="read_committed",  # what a producer aborted was never sent
        batch_timeout_ms=how.batch_timeout_ms,
        max_records=how.max_records,
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
        rebalance_timeout_ms=20_000,
        listener=consumer,
        parser=_raw_message,
        decoder=_raw_records,
    )
    consumer.bind(subscriber)
    consumer.membership = Membership(group_id, broker.config.prefix + how.topic)
    subscriber(consumer.consume)


async def _raw_message(records: Any) -> KafkaMessage:
    """Wrap fetched records without looking into them: FastStream's own parser loses a whole batch to one bad header."""
    return KafkaMessage(body=b"", headers={}, raw_message=records, message_id="", consumer=FAKE_CONSUMER)


async def _raw_records(message: KafkaMessage) -> Any:
    """Hand the records over as they came."""
    return message.raw_message


class OutboxProducer:
    """Publishes outbox messages through the broker and waits until each is acknowledged."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._prefix = broker.config.prefix

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Raise `NotAcknowledged` for messages that the broker will not take. After another error some may be published."""
        acknowledgements = [await self._send(message) for message in messages]
        outcomes = await asyncio.gather(*acknowledgements, return_exceptions=True)
        failed = {m.id: error for m, error in zip(messages, outcomes, strict=True) if isinstance(error, BaseException)}
        if failed:
            first = next(iter(failed.values()))
            raise NotAcknowledged(
                f"{len(failed)} of {len(messages)} messages were refused: {first!r}", failed
            ) from first

    async def _send(self, message: Message) -> Awaitable[Any]:
        """Hand a message to the producer; the future that comes back is its acknowledgement."""
        try:
            return await self._broker.publish(
                message.value,
                self._prefix + message.topic,
                key=message.key,
                partition=message.partition,
                headers={"content-type": CONTENT_TYPE_JSON, **tracing.headers(), **message.headers},
                no_confirm=True,
            )
        except MessageSizeTooLargeError as error:
            refusal: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refusal.set_exception(error)
            return refusal


def topic_plan(partitions: int) -> dict[str, int]:
    """Return all topics with their number of partitions: usage.recorded follows usage.events, the rest needs order by key only."""
    return {
        USAGE_EVENTS: partitions,
        USAGE_RECORDED: partitions,
        USAGE_DEAD_LETTER: 1,
        SUBSCRIPTION_STATUS: partitions,
        BILLING_EVENTS: 1,
    }


async def create_topics(
    bootstrap_servers: str,
    *,
    partitions: int,
    replication_factor: int = 1,
    prefix: str = "",
    security: Mapping[str, Any] | None = None,
) -> list[str]:
    """Create the topics that are missing and return their names.

    Raises `ServiceUnavailable` if no broker answers, `ConfigurationError` with the broker's reason if it will not make one.
    `security` is what `client_security` returns.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **(security or {}))
    try:
        await admin.start()
    except KafkaError as error:
        await admin.close()
        raise kafka_unavailable(bootstrap_servers, error) from error
    try:
        existing = set(await admin.list_topics())
        missing = {name: count for name, count in topic_plan(partitions).items() if prefix + name not in existing}
        wanted = [_new_topic(prefix, name, count, replication_factor) for name, count in missing.items()]
        answer = await admin.create_topics(wanted)
        outcomes = {topic: (for_code(code), reason) for topic, code, reason in answer.topic_errors}
        for topic, (kind, reason) in outcomes.items():
            if kind not in (NoError, TopicAlreadyExistsError):  # where another one was quicker, all is well
                raise ConfigurationError(f"Kafka did not make the topic {topic} ({kind.__name__}): {reason}")
        return [topic for topic, (kind, _) in outcomes.items() if kind is NoError]
    finally:
        await admin.close()


def _new_topic(prefix: str, name: str, partitions: int, replication_factor: int) -> NewTopic:
    policy = {"cleanup.policy": "compact"} if name in COMPACTED_TOPICS else {"retention.ms": str(7 * 24 * 3600 * 1000)}
    if name == USAGE_DEAD_LETTER:
        policy["max.message.bytes"] = str(LARGEST_MESSAGE_BYTES)  # a refused record plus its reason outgrows the record
    return NewTopic(
        name=prefix + name, num_partitions=partitions, replication_factor=replication_factor, topic_configs=policy
    )


def kafka_unavailable(bootstrap_servers: str, error: BaseException) -> ServiceUnavailable:
    """Return the error that a person sees when no broker answers."""
    return ServiceUnavailable(
        f"Kafka does not answer at {bootstrap_servers} ({type(error).__name__}): "
        "check KAFKA_BOOTSTRAP_SERVERS, or start one with 'tallystick local up'"
    )
