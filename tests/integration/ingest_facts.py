"""An ingest on a real database, fed by hand: what the consumer does with a slice, without a broker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import UUID

from aiokafka import ConsumerRecord

from services.ingest.acceptance import Limits
from services.ingest.attribution import Attributor
from services.ingest.compiled import Compiled, load, make_sweeper
from services.ingest.handlers import IngestBatch
from services.ingest.held import HeldEvents
from services.ingest.log import UsageLog
from services.ingest.publishing import Publishing
from shared.clock import FixedClock
from shared.consumer import AfterCommit, Slice
from shared.contracts import USAGE_DEAD_LETTER, USAGE_EVENTS, USAGE_RECORDED, UsageRecorded, decode_recorded
from shared.ids import uuid7
from shared.outbox import Message, Outbox
from shared.positions import Positions
from shared.postgres import Pool, transaction
from tests.compiled import COMPILED
from tests.unit.ingest.events import NOW, record

Record: TypeAlias = ConsumerRecord[bytes, bytes]
REMEMBERED: Final = 1_000


@dataclass(slots=True)
class Ingest:
    """A worker's parts on a pool. `published` is what the broker has; while `refuse` is set it takes nothing."""

    pool: Pool
    limits: Limits = field(default_factory=Limits)
    remembered: int = REMEMBERED
    compiled: Compiled = COMPILED
    published: list[Message] = field(default_factory=list)
    refuse: Exception | None = None
    batch: IngestBatch = field(init=False)
    publishing: Publishing = field(init=False)
    positions: Positions = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what only memory knows."""
        outbox, attributor = Outbox("ingest_outbox"), Attributor()
        sweeper, recent = make_sweeper(load(self.compiled), self.limits, attributor.known_as, self.remembered)
        self.publishing = Publishing(self.pool, outbox, self._produce)
        self.positions = Positions("ingest_positions", cluster="main")
        self.batch = IngestBatch(
            cluster="main",
            limits=self.limits,
            clock=FixedClock(NOW),
            log=UsageLog(self.pool, recent),
            recent=recent,
            attributor=attributor,
            outbox=outbox,
            publishing=self.publishing,
            sweeper=sweeper,
        )

    async def _produce(self, messages: Sequence[Message]) -> None:
        if self.refuse:
            raise self.refuse
        self.published += messages

    async def commit(self, records: Sequence[Record]) -> AfterCommit:
        """Apply records of one partition in a transaction that commits; return what remains to be done, as a crash leaves it."""
        partition = records[0].partition
        async with transaction(self.pool) as connection:
            position = await self.positions.lock(connection, USAGE_EVENTS, partition)
            if position is None:
                position = await self.positions.create(connection, USAGE_EVENTS, partition, records[0].offset)
            return await self.batch(connection, Slice(position, records))

    async def apply(self, *records: Record) -> None:
        """Apply records of one partition, and publish."""
        after_commit = await self.commit(records)
        await after_commit()
        await self.publishing.finish()

    async def apply_values(self, *values: bytes | None) -> None:
        """Apply records with these values, from the position of partition 0 on."""
        first = await self.pool.fetchval("SELECT next_offset FROM ingest_positions WHERE partition = 0") or 0
        await self.apply(*(record(value, offset=first + n) for n, value in enumerate(values)))

    async def attribute(self) -> None:
        """Attribute held events that can be."""
        await HeldEvents(self.pool, self.batch).attribute()
        await self.publishing.finish()

    # --- what there is to see -----------------------------------------------------------------------------------------

    async def counts(self, partition: int = 0) -> dict[str, int]:
        """The account of a partition, without zeros."""
        row = await self.pool.fetchrow(
            "SELECT inserted, duplicates, quarantined, held, gaps FROM ingest_positions WHERE partition = $1", partition
        )
        return {name: count for name, count in row.items() if count}

    async def stored(self) -> list[dict[str, Any]]:
        """The rows of the log, by request id."""
        return [dict(row) for row in await self.pool.fetch("SELECT * FROM usage_logs ORDER BY request_id, created_at")]

    async def quarantined(self) -> list[dict[str, Any]]:
        """What is in quarantine, by offset."""
        rows = await self.pool.fetch("SELECT * FROM quarantined_events ORDER BY partition, record_offset")
        return [{**row, "record_headers": json.loads(row["record_headers"])} for row in rows]

    async def held(self) -> list[dict[str, Any]]:
        """What is or was held, by offset."""
        return [
            dict(row) for row in await self.pool.fetch("SELECT * FROM held_events ORDER BY partition, record_offset")
        ]

    async def waiting(self) -> int:
        """How many messages are in the outbox."""
        return int(await self.pool.fetchval("SELECT count(*) FROM ingest_outbox"))

    def recorded(self) -> list[UsageRecorded]:
        """The published messages of usage.recorded."""
        return [decode_recorded(m.value or b"") for m in self.published if m.topic == USAGE_RECORDED]

    def letters(self) -> list[Message]:
        """The published dead letters."""
        return [m for m in self.published if m.topic == USAGE_DEAD_LETTER]

    async def adds_up(self) -> bool:
        """Whether rows, positions, batches and announcements agree."""
        rows = await self.pool.fetchval("SELECT count(*) FROM usage_logs")
        batches = await self.pool.fetchval("SELECT coalesce(sum(inserted + amended), 0) FROM usage_batches")
        messages = await self.pool.fetchval("SELECT coalesce(sum(message_count), 0) FROM usage_batches")
        orphans = await self.pool.fetchval(
            "SELECT count(*) FROM usage_logs WHERE batch_id NOT IN (SELECT batch_id FROM usage_batches)"
        )
        announced = sum(message.event_count for message in self.recorded())
        unguarded = await self.pool.fetchval(
            "SELECT count(*) FROM usage_logs l WHERE (SELECT count(*) FROM usage_ids i WHERE i.id = l.id AND i.created_at = l.created_at) <> 1"
        )
        return bool(
            rows == batches == announced and messages == len(self.recorded()) and orphans == 0 and unguarded == 0
        )


async def make_key(pool: Pool, subscription: UUID, **columns: Any) -> tuple[UUID, str]:
    """Store an API key of a subscription; return its id and hash."""
    id_ = columns.get("id") or uuid7()
    key_hash = columns.get("key_hash") or id_.hex * 2
    await pool.execute(
        "INSERT INTO api_keys (id, subscription_id, key_hash, key_prefix) VALUES ($1, $2, $3, 'sk-test')", id_, subscription, key_hash
    )  # fmt: skip
    return id_, key_hash
