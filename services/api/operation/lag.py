"""How far services are behind what the broker holds. The broker is asked beside requests: no page waits for one that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from services.api.background import Background
from shared.clock import Clock
from shared.contracts import USAGE_EVENTS, USAGE_RECORDED
from shared.kafka_security import client_security
from shared.postgres import Connection
from shared.settings import KafkaSettings
from shared.sql import Queries

log = structlog.get_logger("api.lag")

_SQL: Final = Queries.load("services.api.operation")
ASK_SECONDS: Final = 5.0
"""How long the broker has to answer."""
ASK_EVERY: Final = timedelta(seconds=10)
"""How long an answer is shown, and how long a broker that gave none is left alone."""
OLDEST: Final = timedelta(minutes=1)
"""An answer that is older is none: somebody looks at the page for the first time in a while."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How many records of a topic a service has not read yet."""

    service: str
    topic: str
    partitions: int
    records: int


@dataclass(slots=True)
class Ends:
    """Where the partitions end that services read, as the broker said when it was asked last."""

    settings: KafkaSettings
    clock: Clock
    background: Background
    _known: Mapping[tuple[str, int], int] | None = None
    _answered_at: datetime | None = None
    _asked_at: datetime | None = None
    _asking: bool = field(default=False)

    async def latest(self) -> Mapping[tuple[str, int], int] | None:
        """Return the ends by topic and partition, None where they are not known (yet); the broker is asked anew beside that."""
        now = self.clock.now()
        if not self._asking and (self._asked_at is None or now - self._asked_at >= ASK_EVERY):
            self._asking, self._asked_at = True, now
            await self.background.begin(self._ask(), seconds=0)
        fresh = self._answered_at is not None and now - self._answered_at <= OLDEST
        return self._known if fresh else None

    async def _ask(self) -> None:
        topics = [self.settings.kafka_topic_prefix + topic for topic in (USAGE_EVENTS, USAGE_RECORDED)]
        consumer = AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self.settings.kafka_bootstrap_servers,
            client_id="tallystick-api-lag",
            **client_security(self.settings),
        )
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await consumer.start()
                places = [
                    TopicPartition(t, number) for t in topics for number in consumer.partitions_for_topic(t) or ()
                ]
                ends = await consumer.end_offsets(places)
            self._known = {(place.topic, place.partition): end for place, end in ends.items()}
            self._answered_at = self.clock.now()
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            log.info("ends_of_topics_not_known", error=repr(error))
        finally:
            self._asking = False
            await consumer.stop()


async def read_lag(connection: Connection, ends: Mapping[tuple[str, int], int]) -> Sequence[Lag]:
    """Return how far each service is behind `ends`, by its positions."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in await connection.fetch(_SQL["positions"]):
        end = ends.get((row["topic"], row["partition"]))
        if end is not None:
            found.setdefault((row["service"], row["topic"]), []).append(max(0, end - row["next_offset"]))
    return [Lag(service, topic, len(behind), sum(behind)) for (service, topic), behind in found.items()]
