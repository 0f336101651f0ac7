"""Replay: refused records go once more through ingest's own path – decode, decide, insert, deltas, outbox.

The same code as for a batch from Kafka; only the position is not concerned, because the offsets were accounted for when
the records came. What is taken in is resolved by its batch, in the same transaction: a replay that is interrupted leaves
whole transactions, and the same command goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg

from services.ingest.acceptance import Limits
from services.ingest.announcement import announce_recorded
from services.ingest.attribution import Attributor
from services.ingest.handlers import IngestBatch
from services.ingest.held import record_of
from services.ingest.log import UsageLog
from services.ingest.publishing import Publishing
from services.ingest.quarantine import store
from services.ingest.quarantine.decisions import Replayed, verdicts, window
from services.ingest.quarantine.store import Choice
from services.ingest.recent import RecentEvents
from services.ingest.store import Counts, hold, record_batch
from services.ingest.sweeping import Decoded
from shared.clock import SystemClock
from shared.contracts import Origin
from shared.ids import uuid7
from shared.outbox import Message, Outbox
from shared.postgres import Connection, Pool, transaction

REPLAY_AT_ONCE = 1_000
"""Records that one transaction replays."""
TRIES = 5
"""Of one transaction, when another one stored the same events at the same moment."""

_AGAIN = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_FIRST = UUID(int=0)


def without_consumer(pool: Pool, *, cluster: str, limits: Limits) -> IngestBatch:
    """Return ingest's parts for a replay from outside of a worker. They publish nothing: that is the caller's, once it is done."""
    recent, outbox = RecentEvents(), Outbox("ingest_outbox")
    return IngestBatch(
        cluster=cluster,
        limits=limits,
        clock=SystemClock(),
        log=UsageLog(pool, recent),
        recent=recent,
        attributor=Attributor(),
        outbox=outbox,
        publishing=Publishing(pool, outbox, _nobody),
    )


async def _nobody(messages: Sequence[Message]) -> None:
    raise AssertionError(f"a replay publishes its {len(messages)} messages once it is done")


@dataclass(slots=True)
class Replay:
    """Replays quarantined records in the name of `actor`. `messages` are those that were enqueued, to be published after it."""

    pool: Pool
    ingest: IngestBatch
    actor: str
    why: str
    accept_late: bool = False

    async def run(self, choice: Choice) -> tuple[Replayed, list[Message]]:
        """Replay what is chosen and open now; return what it came to, and what was enqueued for publication."""
        total, messages, after = Replayed(), list[Message](), _FIRST
        end = uuid7()  # what is refused from now on is not of this replay
        while True:
            last, some = await self._transaction(choice, after, total)
            messages += some
            if last is None or last >= end:
                return total, messages
            after = last

    async def _transaction(self, choice: Choice, after: UUID, total: Replayed) -> tuple[UUID | None, list[Message]]:
        for tries in range(1, TRIES + 1):
            try:
                async with transaction(self.pool) as connection:
                    rows = await store.take(connection, choice, after, REPLAY_AT_ONCE, actor=self.actor)
                    done = [await self._partition(connection, place, group) for place, group in _by_place(rows)]
            except _AGAIN:
                if tries == TRIES:
                    raise
            else:
                for result, _ in done:
                    _add(total, result)
                return rows[-1]["id"] if rows else None, [m for _, messages in done for m in messages]
        raise AssertionError("unreachable")

    async def _partition(
        self, connection: Connection, origin: Origin, rows: Sequence[Any]
    ) -> tuple[Replayed, list[Message]]:
        """Replay the records of one partition as a batch of their own."""
        ingest, batch_id, now = self.ingest, uuid7(), self.ingest.clock.now()
        taken = await ingest.take_in(connection, batch_id, self._decode(rows, now))

        before = {row["record_offset"] for row in rows if row["held_before"]}
        held = [found for found in taken.held if found[0].offset not in before]
        stuck = before & {record.offset for record, _, _ in taken.held}
        ids = {row["record_offset"]: row["id"] for row in rows}
        result = verdicts(ids, taken.refused, stuck)

        announced = announce_recorded(batch_id, origin, taken.sums, now, corrections=taken.corrected)
        await ingest.outbox.enqueue(connection, announced)
        if result.resolved:
            counts = Counts(taken.inserted, taken.duplicates, held=len(held), amended=taken.corrected.amended)
            await hold(connection, origin, batch_id, held)
            await record_batch(connection, batch_id, "replay", origin, counts, message_count=len(announced))
            await store.resolve(connection, result.resolved, batch_id, actor=self.actor, why=self.why)
        await store.refuse_again(connection, result.refused)
        replayed = Replayed(taken.inserted, taken.duplicates, len(held))
        replayed.add_refused(result.refused)
        return replayed, announced

    def _decode(self, rows: Sequence[Any], now: datetime) -> Decoded:
        """Decode each record by the window of the time when it came."""
        decoded = Decoded()
        for row in rows:
            when = window(self.ingest.limits, row["quarantined_at"], now, accept_late=self.accept_late)
            one = self.ingest.decode([record_of(row)], now, window=when)
            decoded.usage += one.usage
            decoded.corrections += one.corrections
            decoded.refused += one.refused
        return decoded


def _by_place(rows: Sequence[Any]) -> list[tuple[Origin, list[Any]]]:
    def place(row: Any) -> tuple[str, str, int, int]:
        return row["cluster"], row["topic"], row["partition"], row["epoch"]

    return [(Origin(*key), list(group)) for key, group in groupby(sorted(rows, key=place), key=place)]


def _add(total: Replayed, result: Replayed) -> None:
    total.inserted += result.inserted
    total.duplicates += result.duplicates
    total.held += result.held
    total.refused_again += result.refused_again
    total.examples = {**result.examples, **total.examples}
