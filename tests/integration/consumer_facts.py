"""An exactly-once consumer on a real database, with a broker that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError

from shared.consumer import AfterCommit, ExactlyOnceConsumer, Slice
from shared.gathering import GATHERED_BYTES, Pace
from shared.metrics import ConsumerMetrics
from shared.positions import Positions
from shared.postgres import Connection, Pool

TOPIC: Final = "usage.events"
ZERO, ONE = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
SEEN: Final = "DROP TABLE IF EXISTS seen; CREATE TABLE seen (partition_number integer, record_offset bigint, by text)"
ADVANCE: Final = """
    UPDATE ingest_positions SET next_offset = $4, inserted = inserted + $5, gaps = gaps + $6
    WHERE topic = $1 AND partition = $2 AND epoch = $3
"""


@dataclass(slots=True)
class FakeBroker:
    """In place of aiokafka's consumer and FastStream's subscriber: what is in the partitions, and what it was asked, in order."""

    beginning: dict[TopicPartition, int] = field(default_factory=dict)
    end: dict[TopicPartition, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    away: Exception | None = None
    assigned: set[TopicPartition] = field(default_factory=set)
    committed: list[dict[TopicPartition, int]] = field(default_factory=list)
    fetched_to: dict[TopicPartition, int] = field(default_factory=dict)
    fetch: Exception | None = None
    coordinator_answers: bool = True
    getmany: Any = None

    def __post_init__(self) -> None:
        self.getmany = self._getmany

    @property
    def consumer(self) -> FakeBroker:
        return self

    def pause(self, *tps: TopicPartition) -> None:
        self.asked += [f"pause {tp.partition}" for tp in tps]

    def resume(self, *tps: TopicPartition) -> None:
        self.asked += [f"resume {tp.partition}" for tp in tps]

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self.assigned:
            raise IllegalStateError(f"{tp} is not assigned")
        self.asked.append(f"seek {tp.partition} to {offset}")

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(0)
        if self.away:
            raise self.away
        return {tp: self.beginning.get(tp, 0) for tp in tps}

    async def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        await asyncio.sleep(0)
        return {tp: self.end.get(tp, 100) for tp in tps}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if not self.coordinator_answers:
            await asyncio.Event().wait()
        self.committed.append(offsets)

    def last_stable_offset(self, tp: TopicPartition) -> int | None:
        assert tp in self.assigned, "Partition is not assigned"
        return self.end.get(tp)

    async def position(self, tp: TopicPartition) -> int:
        return self.fetched_to[tp]

    async def _getmany(self, *_: Any, **__: Any) -> dict[TopicPartition, Any]:
        if self.fetch:
            raise self.fetch
        return {}


@dataclass(slots=True)
class Storing:
    """Stores which record was seen, and the position. Fails, or waits, as a test says."""

    name: str = "worker"
    fails: list[BaseException] = field(default_factory=list)
    may_commit: asyncio.Event | None = None
    applying: asyncio.Event = field(default_factory=asyncio.Event)
    slices: list[Slice] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    fails_after: Exception | None = None

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        self.slices.append(batch)
        place = batch.position
        rows = [(place.partition, record.offset, self.name) for record in batch.records]
        await connection.executemany("INSERT INTO seen VALUES ($1, $2, $3)", rows)
        await connection.execute(
            ADVANCE, place.topic, place.partition, place.epoch, batch.next_offset, len(batch.records), batch.gaps
        )
        self.applying.set()
        if self.may_commit:
            await self.may_commit.wait()
        if self.fails:
            raise self.fails.pop(0)

        async def after() -> None:
            self.after.append(batch.next_offset)
            if self.fails_after:
                raise self.fails_after

        return after


def consumer_of(
    pool: Pool,
    broker: FakeBroker,
    apply: Storing,
    *,
    lanes: int = 2,
    gather_seconds: float = 0.0,
    gathered_bytes: int = GATHERED_BYTES,
) -> ExactlyOnceConsumer:
    """Return a consumer that was given its subscriber."""
    consumer = ExactlyOnceConsumer(
        pool=pool,
        positions=Positions("ingest_positions", cluster="main"),
        apply=apply,
        metrics=ConsumerMetrics(TOPIC),
        lanes=lanes,
        pace=Pace(gather_seconds),
        gathered_bytes=gathered_bytes,
    )
    consumer.bind(broker)
    return consumer


async def assign(consumer: ExactlyOnceConsumer, broker: FakeBroker, *tps: TopicPartition) -> None:
    """Assign partitions as aiokafka does, and wait until each is synced or halted."""
    broker.assigned |= set(tps)
    await consumer.on_partitions_assigned(tps)
    await settled()


async def settled() -> None:
    """Return when no partition is being synced any more."""
    while tasks := [task for task in asyncio.all_tasks() if task.get_name().startswith("sync ")]:
        async with asyncio.timeout(20):
            await asyncio.wait(tasks)


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when something is so that nobody tells of. Fails after a while."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 – nobody sets an event for it
            await asyncio.sleep(0.01)


async def end_all() -> None:
    """Cancel what consumers of a test left running."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith(("sync ", "advise", "gathering")):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def seen(pool: Pool) -> list[tuple[int, int]]:
    """Return partition and offset of all that was stored, in order, doubles too."""
    rows = await pool.fetch("SELECT partition_number, record_offset FROM seen ORDER BY 1, 2")
    return [(row[0], row[1]) for row in rows]


async def positions(pool: Pool) -> dict[int, tuple[int, int, int]]:
    """Return position, inserted and gaps by partition."""
    rows = await pool.fetch("SELECT partition, next_offset, inserted, gaps FROM ingest_positions")
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


Records = Sequence[ConsumerRecord[bytes, bytes]]
