"""An aggregator on a real database, fed by hand: what the consumer does with records, without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.aggregator.counters import Counters
from services.aggregator.handlers import ApplyRecorded
from services.aggregator.quota import QuotaPolicy
from services.aggregator.rolling import QuotaResets
from shared.clock import FixedClock
from shared.consumer import Slice
from shared.contracts import USAGE_RECORDED, UsageRecorded, encode
from shared.ids import uuid7
from shared.outbox import Message, Outbox
from shared.positions import Positions
from shared.postgres import Pool, transaction
from tests.integration.roles import AGGREGATOR, with_role
from tests.unit.aggregator.facts import NOON, record

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


async def make_subscription(pool: Pool, **fields: Any) -> UUID:
    """Store a user with an active subscription without quotas, counting November; `fields` replace columns."""
    user_id, subscription_id = uuid7(), fields.pop("id", None) or uuid7()
    await pool.execute("INSERT INTO users (id, email) VALUES ($1, $2)", user_id, f"{user_id.hex}@example.com")
    facts = {
        "id": subscription_id, "user_id": user_id, "plan_id": "enterprise", "status": "active", "quota_requests": None,
        "quota_tokens": None, "quota_period_start": NOVEMBER, "reset_at": DECEMBER, **fields,
    }  # fmt: skip
    columns, places = ", ".join(facts), ", ".join(f"${i}" for i in range(1, len(facts) + 1))
    await pool.execute(f"INSERT INTO subscriptions ({columns}) VALUES ({places})", *facts.values())  # noqa: S608
    return subscription_id


async def subscription(pool: Pool, id_: UUID) -> Any:
    """Return the row of a subscription."""
    return await pool.fetchrow("SELECT *, status::text AS status FROM subscriptions WHERE id = $1", id_)


async def used(pool: Pool, id_: UUID) -> tuple[int, int]:
    """Return the counters of a subscription."""
    row = await subscription(pool, id_)
    return row["used_requests"], row["used_tokens"]


async def summed(pool: Pool, id_: UUID, period_type: str) -> dict[datetime, tuple[int, int]]:
    """Return requests and tokens of a subscription by period, over all models and tools."""
    rows = await pool.fetch(
        """SELECT period_start, sum(request_count)::bigint AS requests, sum(total_tokens)::bigint AS tokens FROM usage_summaries
           WHERE subscription_id = $1 AND period_type = $2 GROUP BY 1 ORDER BY 1""",
        id_,
        period_type,
    )
    return {row["period_start"]: (row["requests"], row["tokens"]) for row in rows}


STORE_BATCH = """
    INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, inserted, duplicates, quarantined, held, gaps, message_count)
    VALUES ($1, 'held', 'main', 'usage.events', 0, $2, 0, 0, 0, 0, $3) ON CONFLICT DO NOTHING
"""


@dataclass
class Aggregator:
    """One aggregator that owns one partition of usage.recorded, and has the rights of the aggregator's role."""

    pool: Pool
    partition: int = 0
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOON))
    policy: QuotaPolicy = field(default_factory=QuotaPolicy)
    wakes: int = 0

    def __post_init__(self) -> None:
        self.owner, self.pool = self.pool, with_role(self.pool, AGGREGATOR)
        self.positions = Positions("aggregator_positions", cluster="main")
        self.counters = Counters(self.policy, Outbox("aggregator_outbox"))
        self.handler = ApplyRecorded("main", self.clock, self.counters, self.wake)
        self.resets = QuotaResets(self.pool, self.clock, self.counters, self.wake)

    def wake(self, _event_time: datetime | None = None) -> None:
        self.wakes += 1

    async def next_offset(self) -> int:
        """Return the position, made at 0 if there is none."""
        async with self.pool.acquire() as connection:
            return (await self.positions.create(connection, USAGE_RECORDED, self.partition, 0)).next_offset

    async def apply(self, *messages: UsageRecorded, skip: int = 0) -> None:
        """Append messages to the partition, after `skip` offsets that hold none, and apply them as one slice.

        Their batches are stored, if they are not yet, as ingest does before it announces them.
        """
        await self.owner.executemany(STORE_BATCH, [(m.batch_id, max(1, m.event_count), m.parts) for m in messages])
        await self.apply_values([encode(message) for message in messages], skip=skip)

    async def apply_values(self, values: Sequence[bytes | None], *, skip: int = 0) -> None:
        """The same with any bytes."""
        first = await self.next_offset() + skip
        records = [record(value, partition=self.partition, offset=first + i) for i, value in enumerate(values)]
        async with transaction(self.pool) as connection:
            position = await self.positions.lock(connection, USAGE_RECORDED, self.partition)
            assert position is not None
            after_commit = await self.handler(connection, Slice(position, records))
        await after_commit()

    async def position(self) -> tuple[int, int, int, int]:
        """Return next offset, applied, duplicates and gaps; nothing was orphaned."""
        row = await self.pool.fetchrow("SELECT * FROM aggregator_positions WHERE partition = $1", self.partition)
        assert row["orphaned"] == 0
        return row["next_offset"], row["applied"], row["duplicates"], row["gaps"]


@dataclass
class Published:
    """A producer that keeps what it was given."""

    messages: list[Message] = field(default_factory=list)

    async def __call__(self, messages: Sequence[Message]) -> None:
        self.messages += messages
