"""How far partitions are behind what the broker holds: a gauge that is true while nothing moves, and what liveness is judged by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.metrics import ConsumerMetrics

ENDS_TIMEOUT_SECONDS = 5.0


class Progress(Protocol):
    """What is known of one partition."""

    next_offset: int
    placed: bool
    busy: bool
    applied_ms: int | None


@dataclass(slots=True)
class Lag:
    """The lag of the partitions of one consumer. `placed` says that `next_offset` is known."""

    consumer: Callable[[], AIOKafkaConsumer]
    partitions: Mapping[TopicPartition, Progress]
    metrics: ConsumerMetrics
    _ends: dict[TopicPartition, int] = field(default_factory=dict)
    _reported: set[TopicPartition] = field(default_factory=set)

    async def measure(self) -> None:
        """Ask the broker where the partitions end, and set the gauge.

        A fetch says that too, but none is made while a partition is paused, and none succeeds while fetching is stuck.
        """
        placed = {tp: state for tp, state in self.partitions.items() if state.placed}
        try:
            async with asyncio.timeout(ENDS_TIMEOUT_SECONDS):
                self._ends = await self.consumer().end_offsets(list(placed)) if placed else {}
            self.metrics.answered()
        except (TimeoutError, KafkaError):
            self._ends = {}  # nobody knows: no reason to restart a worker
        for tp in self._reported - self.partitions.keys():
            self.metrics.gone(tp.partition)
        self._reported &= self.partitions.keys()
        for tp, end in self._ends.items():
            if tp in self.partitions:
                behind, applied = max(0, end - placed[tp].next_offset), placed[tp].applied_ms
                self.metrics.lags(tp.partition, behind)
                if applied is not None or not behind:
                    self.metrics.lags_seconds(tp.partition, max(0.0, time() - (applied or 0) / 1000) if behind else 0.0)
                self._reported.add(tp)

    def end(self, tp: TopicPartition) -> int | None:
        """Return where the partition ends for us, as of its last fetch; None if it was not fetched, or is not ours any more."""
        try:
            return self.consumer().last_stable_offset(tp)  # type: ignore[no-any-return]
        except AssertionError:  # aiokafka's answer for a partition that was revoked while its batch ran
            return None

    async def of(self, tp: TopicPartition, state: Progress) -> int:
        """Return how many records of a partition that runs are known to wait."""
        end = max(self.end(tp) or 0, self._ends.get(tp, 0))
        behind = max(0, end - state.next_offset)
        if not behind or state.busy:
            return behind
        try:
            async with asyncio.timeout(1.0):
                fetched = await self.consumer().position(tp)
        except (TimeoutError, KafkaError):
            return behind
        return behind if fetched < end else 0  # all was handed out: what is left are transaction markers
