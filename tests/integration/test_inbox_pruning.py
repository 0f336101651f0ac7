"""The aggregator's inbox forgets old messages, and what it forgot is still applied once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from services.aggregator.jobs import InboxPruning
from services.aggregator.rebuild import Scope, verify
from services.billing.reconciliation import reconcile
from shared.clock import FixedClock
from shared.contracts import UsageRecorded, encode
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import Aggregator, make_subscription, used
from tests.integration.billing_facts import usage
from tests.integration.rebuild_facts import store_batch
from tests.unit.aggregator.facts import NOON

KEEP = timedelta(days=14)
WAITING = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database, server_settings={"TimeZone": "UTC"})
    yield connection
    await connection.close()


async def batch(pool: Pool, owner: UUID, *, age: timedelta, parts: int = 1) -> list[UsageRecorded]:
    """Commit a batch that was recorded some time before noon."""
    rows = [usage(owner, at=NOON, model=model, request_tokens=1) for model in ("a", "b")]
    messages = await store_batch(pool, rows, parts=parts)
    await pool.execute(
        "UPDATE usage_batches SET recorded_at = $2 WHERE batch_id = $1", messages[0].batch_id, NOON - age
    )
    return messages


async def inbox(pool: Pool) -> set[UUID]:
    return {row["batch_id"] for row in await pool.fetch("SELECT DISTINCT batch_id FROM aggregator_inbox")}


def pruning(aggregator: Aggregator) -> InboxPruning:
    return InboxPruning(aggregator.pool, FixedClock(NOON), KEEP)


async def test_old_messages_are_forgotten_and_are_duplicates_all_the_same(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    old = await batch(database_pool, owner, age=KEEP + timedelta(seconds=1), parts=2)
    new = await batch(database_pool, owner, age=KEEP)
    await aggregator.apply(*old, *new)

    assert await pruning(aggregator)() == 2
    assert await inbox(database_pool) == {new[0].batch_id}
    assert await pruning(aggregator)() == 0

    await aggregator.apply(*old, *new)
    assert await used(database_pool, owner) == (4, 4)
    assert await aggregator.position() == (6, 3, 3, 0)

    findings = await verify(connection, Scope())
    assert (findings.events, findings.total, findings.left_out) == (4, 0, [])
    differing = {check.name.split(":")[0] for check in await reconcile(connection) if not check.holds}
    assert differing <= {"batches = billing inbox", "log = rated"}, "billing has heard of nothing here"


async def test_nothing_is_forgotten_past_a_batch_that_was_not_applied_whole(database_pool: Pool) -> None:
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    first = await batch(database_pool, owner, age=timedelta(days=30))
    parted = await batch(database_pool, owner, age=timedelta(days=29), parts=2)
    later = await batch(database_pool, owner, age=timedelta(days=28))
    await aggregator.apply(*first, parted[0], *later)

    assert await pruning(aggregator)() == 1
    assert await inbox(database_pool) == {parted[0].batch_id, later[0].batch_id}

    await aggregator.apply(parted[1])
    assert await pruning(aggregator)() == 3
    assert await inbox(database_pool) == set()
    assert await used(database_pool, owner) == (6, 6)


async def test_much_is_forgotten_in_several_transactions(database_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.aggregator.jobs.PRUNE_BATCHES", 3)
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    for day in range(10):
        await aggregator.apply(*await batch(database_pool, owner, age=timedelta(days=40 - day)))
    assert await pruning(aggregator)() == 10
    assert await inbox(database_pool) == set()


async def test_a_slice_and_pruning_wait_for_each_other(database_pool: Pool) -> None:
    """Else a message could be in neither the inbox nor below the watermark that its slice saw, and be counted twice."""
    owner, aggregator = await make_subscription(database_pool), Aggregator(database_pool)
    old = await batch(database_pool, owner, age=KEEP * 2)
    await aggregator.apply(*old)
    async with transaction(aggregator.pool) as slice_:
        await slice_.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('tallystick.aggregator_inbox', 0))")
        prune = asyncio.create_task(pruning(aggregator)())
        async with asyncio.timeout(10):
            while not await database_pool.fetchval(WAITING):  # noqa: ASYNC110 – nobody tells of a wait
                await asyncio.sleep(0.01)
        again = asyncio.create_task(aggregator.apply_values([encode(message) for message in old]))
    assert await prune == 1
    await again
    assert await used(database_pool, owner) == (2, 2)
