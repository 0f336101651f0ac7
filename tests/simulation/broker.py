"""A broker in memory: partitions with gaps and retention, and a consumer with aiokafka's manners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError

from tests.simulation.loop import Gates

Record: TypeAlias = ConsumerRecord
FETCH_RECORDS = 6


@dataclass(slots=True)
class Log:
    """One partition: every record that it ever held, and what of that it holds now."""

    records: list[Record] = field(default_factory=list)
    beginning: int = 0
    end: int = 0
    committed: int | None = None

    def held(self, offset: int, most: int) -> list[Record]:
        """Return those that a fetch can get: of a topic that was made again, nothing that the earlier one held."""
        return [record for record in self.since(offset, most) if record.offset < self.end]

    def since(self, offset: int, most: int) -> list[Record]:
        """Return up to `most` records from `offset` on."""
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.records[middle].offset < offset else (low, middle)
        return self.records[low : low + most]


class FakeConsumer:
    """What `ExactlyOnceConsumer` and FastStream use of an `AIOKafkaConsumer`, for one worker."""

    def __init__(self, owner: Any, gates: Gates, logs: Mapping[TopicPartition, Log]) -> None:
        self._owner, self._gates, self._logs = owner, gates, logs
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()

    def assign(self, tps: Iterable[TopicPartition]) -> None:
        """What happens inside the client before the listener is called: fetching begins at what the group committed."""
        self.paused.clear()
        self.positions = {}
        for tp in tps:
            log = self._logs[tp]
            self.positions[tp] = log.beginning if log.committed is None else log.committed

    def pause(self, *tps: TopicPartition) -> None:
        for tp in tps:
            self._check(tp)
            self.paused.add(tp)

    def resume(self, *tps: TopicPartition) -> None:
        for tp in tps:
            self._check(tp)
            self.paused.discard(tp)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._check(tp)
        self.positions[tp] = offset

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self._gates.wait(self._owner, "beginning_offsets")
        return {tp: self._logs[tp].beginning for tp in tps}

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self._gates.wait(self._owner, "end_offsets")
        return {tp: self._logs[tp].end for tp in tps}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self._gates.wait(self._owner, "kafka_commit")
        for tp, offset in offsets.items():
            self._logs[tp].committed = offset

    def last_stable_offset(self, tp: TopicPartition) -> int:
        assert tp in self.positions
        return self._logs[tp].end

    async def getmany(self) -> list[Record]:
        """Hand out one fetch. Failing it takes some of the records out of the buffer all the same, as in aiokafka."""
        try:
            await self._gates.wait(self._owner, "fetch", self._anything)
        except Exception:
            self._take()
            raise
        return self._take()

    def _anything(self) -> bool:
        return any(
            self._logs[tp].end != at and self._next(tp)[1] for tp, at in self.positions.items() if tp not in self.paused
        )

    def _take(self) -> list[Record]:
        taken: list[Record] = []
        for tp in self.positions:
            if tp not in self.paused:
                at, records = self._next(tp)
                self.positions[tp] = records[-1].offset + 1 if records else at
                taken += records
        return taken

    def _next(self, tp: TopicPartition) -> tuple[int, list[Record]]:
        """Return where to read on, which is the beginning if the broker has not what is asked for, and what lies there."""
        log, at = self._logs[tp], self.positions[tp]
        if not log.beginning <= at <= log.end:
            at = log.beginning
        return at, log.held(at, FETCH_RECORDS)

    def _check(self, tp: TopicPartition) -> None:
        if tp not in self.positions:
            raise IllegalStateError(f"{tp} is not assigned")
