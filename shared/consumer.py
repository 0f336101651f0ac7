"""Exactly-once consumption: a partition's position and the effects of its records commit in one Postgres transaction.

FastStream supplies lifecycle and subscription; its acknowledgement is bypassed (`AckPolicy.MANUAL`, never acked),
because what is committed to Kafka can run ahead of or behind what is committed to Postgres. The position is ours:

1. *Assigned*: pause first, before anything awaits; then read our position, check it against the broker, seek, resume.
2. *A batch*, per partition, in one transaction: lock the position; drop records below it; if the first record lies
   above it and we did not just seek there, seek again; let the service apply the rest and advance the position.
3. *Any error*: never escapes into FastStream. The partition is paused and synced again from the database, with backoff.
4. *After COMMIT*: publish what the batch announced; tell Kafka our position, for lag tools only.

docs/explanation/exactly-once.md tells why, with the failure table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from math import inf
from operator import attrgetter
from time import perf_counter, time
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition

from shared import tracing
from shared.advice import Advice
from shared.backoff import backoff
from shared.errors import BrokenInvariant
from shared.fetching import watch_fetches
from shared.gathering import ALL_GATHERED_BYTES, GATHERED_BYTES, Gathered, Pace
from shared.lag import Lag
from shared.membership import Membership
from shared.metrics import ConsumerMetrics
from shared.placement import OutOfPlace, check_position, fresh_records
from shared.positions import Position, Positions
from shared.postgres import Pool, transaction
from shared.slices import AfterCommit, Apply, Slice

__all__ = ["AfterCommit", "Apply", "ExactlyOnceConsumer", "Slice"]

log = structlog.get_logger("consumer")

UNWATCHED_SECONDS = 0.2
"""Longer than `batch_timeout_ms`: a fetch that began before fetches were watched ends, with nothing, while all is paused."""


@dataclass(slots=True)
class _Partition:
    """What we know of one assigned partition."""

    synced: bool = False
    halted: str | None = None
    sought: int | None = None
    seeks: int = 0
    failures: int = 0
    placed: bool = False
    next_offset: int = 0
    applied_ms: int | None = None
    """Time of the last record that was applied, in milliseconds since 1970."""
    busy: bool = False
    began: float = -inf
    """When its last slice began, by the event loop's clock, in seconds."""
    gathered: Gathered | None = None
    syncing: asyncio.Task[None] | None = None
    slice: asyncio.Task[None] | None = None
    """What is, or was last, at work on its records."""


@dataclass(slots=True)
class ExactlyOnceConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Consumes a topic exactly once into Postgres. One for each subscriber; pass it as `listener=` and `bind` the subscriber."""

    pool: Pool
    positions: Positions
    apply: Apply
    metrics: ConsumerMetrics
    lanes: int = 2
    membership: Membership | None = None
    pace: Pace = field(default_factory=Pace)
    """How long after a partition's last slice began its next one does: what comes meanwhile is applied together. See shared/gathering.py."""
    gathered_bytes: int = GATHERED_BYTES
    """So many of a partition wait, at most, but for what one fetch adds to them."""
    _partitions: dict[TopicPartition, _Partition] = field(default_factory=dict)
    _joined: bool = False
    _subscriber: Any = None
    _closing: bool = False
    _slices: set[asyncio.Task[None]] = field(default_factory=set)
    _free_lanes: asyncio.Semaphore = field(init=False)
    _context: Context = field(default_factory=copy_context)
    """That of the assignment: FastStream's, in which it hands records over, holds all of the fetch, and a task that is kept holds its context."""
    _advice: Advice = field(init=False)
    _lag: Lag = field(init=False)

    def __post_init__(self) -> None:
        self._free_lanes = asyncio.Semaphore(self.lanes)
        self._advice = Advice(lambda: self._consumer, self._partitions)
        self._lag = Lag(lambda: self._consumer, self._partitions, self.metrics)

    def bind(self, subscriber: Any) -> None:
        """Take the consumer from a FastStream subscriber, which makes it at start, before the first assignment."""
        self._subscriber = subscriber

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._subscriber.consumer

    # --- assignment ---------------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget what is no longer ours. A batch still in flight is safe: its position row decides."""
        for tp in revoked:
            state = self._partitions.pop(tp, None)
            if state and state.syncing:
                state.syncing.cancel()
            if state and state.gathered:
                state.gathered.drop()
        self._joined = bool(self._partitions)
        self._count()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pause before anything else, because fetching has begun already; then find our place in the background."""
        tps = list(assigned)
        self._consumer.pause(*tps)
        self._context = copy_context()
        first = watch_fetches(self._consumer, self._fetch_failed)
        self._joined = True
        for tp in tps:
            self._partitions[tp] = _Partition()
            self._schedule_sync(tp, delay=UNWATCHED_SECONDS if first else 0.0)
        self._count()

    def _schedule_sync(self, tp: TopicPartition, *, delay: float) -> None:
        state = self._partitions[tp]
        state.synced = False
        state.syncing = asyncio.create_task(
            self._sync_until_done(tp, state, delay), name=f"sync {tp.topic}[{tp.partition}]"
        )

    async def _sync_until_done(self, tp: TopicPartition, state: _Partition, delay: float) -> None:
        """Sync one partition, for as long as it takes: until then it stays paused."""
        while True:
            await asyncio.sleep(delay)
            try:
                await self._sync(tp, state)
            except BrokenInvariant as broken:
                self._halt(tp, state, broken)
                return
            except Exception as error:
                state.failures += 1
                delay = backoff(state.failures)
                log.warning(
                    "partition_sync_failed",
                    topic=tp.topic,
                    partition=tp.partition,
                    error=repr(error),
                    retry_seconds=round(delay, 2),
                )
            else:
                return

    async def _sync(self, tp: TopicPartition, state: _Partition) -> None:
        """Read our position, check it against what the broker holds, seek to it and let the partition run."""
        beginning = (await self._consumer.beginning_offsets([tp]))[tp]
        end = (await self._consumer.end_offsets([tp]))[tp]
        async with self.pool.acquire() as connection:
            position = await self.positions.read(connection, tp.topic, tp.partition)
            if position is None:
                position = await self.positions.create(connection, tp.topic, tp.partition, beginning)
        try:
            check_position(position, beginning, end)
        except BrokenInvariant:
            position = await self._position_at_rest(tp) or position
            check_position(position, beginning, end)
        if self._partitions.get(tp) is not state:
            return  # revoked while we asked
        self._consumer.seek(tp, position.next_offset)
        state.seeks += 1
        state.sought = state.next_offset = position.next_offset
        state.synced = state.placed = True
        self._consumer.resume(tp)
        self._count()
        log.info("partition_synced", topic=tp.topic, partition=tp.partition, position=position.next_offset, end=end)

    async def _position_at_rest(self, tp: TopicPartition) -> Position | None:
        """Return where a partition is once nobody moves it: the worker before may have a slice in flight, of records that are deleted since."""
        async with transaction(self.pool) as connection:
            return await self.positions.lock(connection, tp.topic, tp.partition)

    def _fetch_failed(self, error: Exception) -> None:
        """A fetch that failed may have taken records out of the buffer that nobody will see: seek them again, everywhere.

        Without this the records after them, if they were the first after a seek, would pass for what follows a gap.
        """
        for tp, state in self._partitions.items():
            if state.synced:
                self._recover(tp, state, error)

    def _halt(self, tp: TopicPartition, state: _Partition, broken: BrokenInvariant) -> None:
        state.halted = str(broken)
        self._count()
        log.critical("partition_halted", topic=tp.topic, partition=tp.partition, reason=str(broken))

    # --- consumption --------------------------------------------------------------------------------------------------

    async def consume(self, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Hand what FastStream fetched to the lanes, partition by partition, and return once all of it has begun.

        So the next fetch is under way, and the next slice decoded, while the last ones commit. A partition's slices follow each other.
        """
        by_partition = [
            (TopicPartition(group[0].topic, partition), group)
            for partition, group in ((p, list(g)) for p, g in groupby(records, key=attrgetter("partition")))
        ]
        states = {tp: (state, state.seeks) for tp, _ in by_partition if (state := self._partitions.get(tp))}
        for tp, mine in by_partition:
            if tp in states:
                await self._take(tp, *states[tp], mine)

    async def _take(
        self, tp: TopicPartition, state: _Partition, seeks: int, records: list[ConsumerRecord[bytes, bytes]]
    ) -> None:
        """Start on records, or let them wait with others for the partition's next slice."""
        newest = records[-1].timestamp  # milliseconds; None of the oldest format, which says nothing
        pace = self.pace.after(tp.partition, 0.0 if newest is None else time() - newest / 1000)
        waits = state.began + pace - asyncio.get_running_loop().time()
        at_work = state.slice is not None and not state.slice.done()
        if state.gathered is None and waits <= 0 and not at_work:
            await self._begin(tp, state, seeks, records)
            return
        if state.gathered is None or state.gathered.seeks != seeks:
            if state.gathered is not None:  # they come again among these
                state.gathered.drop()
            state.gathered = Gathered(seeks, self.gathered_bytes)
            state.gathered.begin(max(0.0, waits), partial(self._begin_gathered, tp, state))
        elif waits <= 0:
            state.gathered.wait_no_longer()
        state.gathered.add(records)
        if state.gathered.full or self._waiting_bytes() >= ALL_GATHERED_BYTES:
            state.gathered.wait_no_longer()
            await state.gathered.started()

    def _waiting_bytes(self) -> int:
        return sum(state.gathered.bytes for state in self._partitions.values() if state.gathered)

    async def _begin_gathered(self, tp: TopicPartition, state: _Partition, gathered: Gathered) -> None:
        await self._begin(tp, state, gathered.seeks, gathered.records)

    async def _begin(
        self, tp: TopicPartition, state: _Partition, seeks: int, records: list[ConsumerRecord[bytes, bytes]]
    ) -> None:
        """Start on records once the partition's last ones are done and a lane is free."""
        if state.slice is not None:
            await asyncio.wait([state.slice])
        await self._free_lanes.acquire()
        if state.gathered is not None and state.gathered.records is records:
            state.gathered = None
        # A rebalance or a seek while these records waited for their lane makes them stale: they would pass for
        # what follows a gap, since we sought to the position meanwhile. They come again.
        if self._closing or state.seeks != seeks or self._partitions.get(tp) is not state:
            self._free_lanes.release()
            return
        state.began = asyncio.get_running_loop().time()
        state.slice = asyncio.create_task(
            self._consume_partition(tp, state, records),
            name=f"{tp.topic}[{tp.partition}]",
            context=self._context.copy(),
        )
        self._slices.add(state.slice)
        state.slice.add_done_callback(self._done, context=self._context)

    def _done(self, ended: asyncio.Task[None]) -> None:
        self._slices.discard(ended)
        self._free_lanes.release()
        self._advice.soon()

    async def settle(self) -> None:
        """Wait until everything that was handed over is committed, or has failed and comes again."""
        while waiting := [state.gathered for state in self._partitions.values() if state.gathered]:
            for gathered in waiting:
                await gathered.started()
        while self._slices:
            await asyncio.wait(self._slices)

    async def _consume_partition(
        self, tp: TopicPartition, state: _Partition, records: list[ConsumerRecord[bytes, bytes]]
    ) -> None:
        if not state.synced:
            return  # fetched before its seek: it comes again from its position
        with tracing.batch(tp.topic, tp.partition, records):
            await self._apply_and_follow(tp, state, records)

    async def _apply_and_follow(
        self, tp: TopicPartition, state: _Partition, records: list[ConsumerRecord[bytes, bytes]]
    ) -> None:
        state.busy, began = True, perf_counter()
        try:
            next_offset, after_commit = await self._apply(tp, state, records)
        except Exception as error:
            tracing.failed(error)
            self._recover(tp, state, error)
            return
        finally:
            state.busy = False
        state.failures, state.sought, state.next_offset = 0, None, next_offset
        state.applied_ms = records[-1].timestamp
        self._advice.note(tp, next_offset)
        self.metrics.applied(perf_counter() - began)
        self.metrics.progressed(tp.partition, next_offset, self._lag.end(tp))
        try:
            await after_commit()
        except Exception as error:
            log.warning("after_commit_failed", topic=tp.topic, partition=tp.partition, error=repr(error))

    async def _apply(
        self, tp: TopicPartition, state: _Partition, records: list[ConsumerRecord[bytes, bytes]]
    ) -> tuple[int, Callable[[], Awaitable[None]]]:
        """Apply records in one transaction; return the position after it and what remains to be done."""
        async with transaction(self.pool) as connection:
            position = await self.positions.lock(connection, tp.topic, tp.partition)
            if position is None:
                raise BrokenInvariant(
                    f"the position of {tp.topic}[{tp.partition}] vanished: restore it before ingest goes on"
                )
            fresh = fresh_records(records, position.next_offset, state.sought)
            if fresh[0].offset > position.next_offset:
                await self._confirm_gap(tp, position)
            batch = Slice(position, fresh)
            return batch.next_offset, await self.apply(connection, batch)

    async def _confirm_gap(self, tp: TopicPartition, position: Position) -> None:
        """Tell a gap from records that retention deleted between our seek and the fetch, which begins behind them then, unasked."""
        beginning = (await self._consumer.beginning_offsets([tp]))[tp]
        if position.next_offset < beginning:
            raise OutOfPlace(f"the broker begins at offset {beginning}, position is {position.next_offset}")

    def _recover(self, tp: TopicPartition, state: _Partition, error: Exception) -> None:
        """Nothing was committed, or we do not know: ask the database where we are, on a fresh connection, after a pause."""
        if self._partitions.get(tp) is not state:
            return
        self._consumer.pause(tp)
        if isinstance(error, BrokenInvariant):
            state.synced = False
            self._halt(tp, state, error)
            return
        state.failures += 1
        self.metrics.redelivered(type(error).__name__)
        delay = 0.0 if isinstance(error, OutOfPlace) and state.failures == 1 else backoff(state.failures)
        log.warning(
            "batch_failed", topic=tp.topic, partition=tp.partition, error=repr(error), failures=state.failures, retry_seconds=round(delay, 2),
            exc_info=error if state.failures == 3 else None,
        )  # fmt: skip
        self._schedule_sync(tp, delay=delay)
        self._count()

    # --- state --------------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        states = self._partitions.values()
        self.metrics.assigned(len(states), sum(s.synced for s in states), sum(s.halted is not None for s in states))

    @property
    def not_ready(self) -> str | None:
        """Say why this consumer is not ready, or None if all its partitions run."""
        if not self._joined:
            return f"{self.metrics.topic}: not in its group yet"
        if not self._partitions:
            return self.membership.problem if self.membership else None
        halted = [f"{tp.topic}[{tp.partition}] halted: {s.halted}" for tp, s in self._partitions.items() if s.halted]
        waiting = [
            f"{tp.topic}[{tp.partition}] not synced"
            for tp, s in self._partitions.items()
            if not s.synced and not s.halted
        ]
        return "; ".join(halted + waiting) or None

    async def lag(self) -> int:
        """Records that are known to wait, over the partitions that run."""
        return sum([await self._lag.of(tp, s) for tp, s in list(self._partitions.items()) if s.synced])

    async def look(self) -> None:
        """Measure the lag, and see to it that an empty assignment is one that was meant. Now and then, beside consumption."""
        if self._subscriber is None or self._subscriber.consumer is None:
            return
        await self._lag.measure()
        if self.membership:
            await self.membership.look(self._consumer, idle=self._joined and not self._partitions)

    @property
    def lost(self) -> str | None:
        """Say why only a restart helps, or None: the client has given up its group for good."""
        return self.membership.lost if self.membership else None

    async def close(self) -> None:
        """Let what is in flight commit, give Kafka our last positions and end what runs in the background."""
        self._closing = True
        for state in self._partitions.values():
            if state.gathered:
                state.gathered.drop()
                state.gathered = None
        await self.settle()
        for state in self._partitions.values():
            if state.syncing:
                state.syncing.cancel()
        self._advice.cancel()
        if self._subscriber is not None and self._subscriber.consumer is not None:
            await self._advice.now()
