"""How far the pipeline is, read from the database while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.cli.demo.world import QUERIES
from shared.contracts import USAGE_EVENTS
from shared.errors import ServiceUnavailable
from shared.kafka_security import client_security
from shared.postgres import Pool
from shared.settings import KafkaSettings

POLL_SECONDS: Final = 0.25
STALLED_SECONDS: Final = 90.0
"""So long without any progress means that something is broken. Includes what is waited out after a crash: the session of a
dead group member, and messages that a killed worker had committed but not published."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the pipeline: sums over all partitions since they were first read."""

    position: int
    announced: int
    stored: int
    aggregated_messages: int
    aggregated: int
    rated_messages: int
    rated: int
    ingest_outbox: int
    aggregator_outbox: int
    billing_outbox: int
    unsettled: int
    attributable: int
    unpublished_statuses: int

    def missing(self, end: int) -> list[str]:
        """Say what is left to do until everything below the offsets that sum to `end` is through; nothing means caught up."""
        left = {
            "records to be read by ingest": end - self.position,
            "held events of known subscriptions to be attributed": self.attributable,
            "messages to be applied by the aggregator": self.announced - self.aggregated_messages,
            "messages to be rated by billing": self.announced - self.rated_messages,
            "rows of prepaid usage to be settled": self.unsettled,
            "messages in the outbox of ingest": self.ingest_outbox,
            "messages in the outbox of the aggregator": self.aggregator_outbox,
            "messages in the outbox of billing": self.billing_outbox,
            "changes of status to be published": self.unpublished_statuses,
        }
        return [f"{count:,} {what}" for what, count in left.items() if count != 0]


Show = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Watch:
    """Watches one pipeline: its database, and the topic and cluster that it reads."""

    pool: Pool
    settings: KafkaSettings

    async def look(self) -> Progress:
        """Read the present progress."""
        row = await self.pool.fetchrow(QUERIES["progress"], self.settings.kafka_cluster, self._topic)
        return Progress(**row)

    async def end(self) -> int:
        """Return the sum of the topic's end offsets: where the positions sum to it, everything was read."""
        consumer = AIOKafkaConsumer(
            self._topic, bootstrap_servers=self.settings.kafka_bootstrap_servers, **client_security(self.settings)
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(self._topic, number) for number in consumer.partitions_for_topic(self._topic)]
            return sum((await consumer.end_offsets(partitions)).values())
        finally:
            await consumer.stop()

    async def until_caught_up(self, show: Show, *, stalled_seconds: float = STALLED_SECONDS) -> None:
        """Return when everything that is in the topic is stored, summed up, rated and published.

        Raises `ServiceUnavailable` that says what is missing when nothing has moved for `stalled_seconds`.
        """
        end = await self.end()
        seen, moved = None, monotonic()
        while True:
            progress = await self.look()
            show(progress)
            missing = progress.missing(end)
            if not missing:
                return
            if progress != seen:
                seen, moved = progress, monotonic()
            elif monotonic() - moved > stalled_seconds:
                raise ServiceUnavailable(
                    f"the pipeline has stood still for {stalled_seconds:.0f} s, with {'; '.join(missing)}: look into the workers' logs"
                )
            await asyncio.sleep(POLL_SECONDS)

    @property
    def _topic(self) -> str:
        return self.settings.kafka_topic_prefix + USAGE_EVENTS
