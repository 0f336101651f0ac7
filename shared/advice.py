"""Telling Kafka our positions: for lag tools and autoscalers, never for ourselves.

Beside consumption, which does not need Kafka's coordinator and does not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

log = structlog.get_logger("consumer")

ADVISORY_COMMIT_SECONDS = 1.0
ADVISORY_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class Advice:
    """Tells Kafka the positions of partitions that are `ours`, at most once a second."""

    consumer: Callable[[], AIOKafkaConsumer]
    ours: Container[TopicPartition]
    _positions: dict[TopicPartition, int] = field(default_factory=dict)
    _told_at: float = 0.0
    _telling: asyncio.Task[None] | None = None

    def note(self, tp: TopicPartition, next_offset: int) -> None:
        """Remember what to tell."""
        self._positions[tp] = next_offset

    def soon(self) -> None:
        """Tell what is noted, unless that is under way."""
        if self._positions and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._later(), name="advise")

    async def _later(self) -> None:
        earliest = self._told_at + ADVISORY_COMMIT_SECONDS
        await asyncio.sleep(max(0.0, earliest - asyncio.get_running_loop().time()))
        await self.now()

    async def now(self) -> None:
        """Tell what is noted. An answer that does not come, or a refusal, does no harm."""
        offsets = {tp: offset for tp, offset in self._positions.items() if tp in self.ours}
        self._positions, self._told_at = {}, asyncio.get_running_loop().time()
        if not offsets:
            return  # all of them were revoked meanwhile
        try:
            async with asyncio.timeout(ADVISORY_TIMEOUT_SECONDS):
                await self.consumer().commit(offsets)
        except Exception as error:
            log.debug("advisory_commit_failed", error=repr(error))

    def cancel(self) -> None:
        """End what is under way."""
        if self._telling:
            self._telling.cancel()
