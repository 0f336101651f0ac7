"""What everybody used is the sum of the summaries, whoever writes those: slices, the version before, a rebuild, somebody by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from services.aggregator import store
from services.aggregator.aggregation import fold
from services.aggregator.rebuild import Scope, heal, verify
from services.aggregator.totals import totals
from services.billing.reconciliation import reconcile
from shared.period import HOUR
from shared.postgres import Connection, Pool, transaction
from tests.integration.aggregator_facts import Aggregator, make_subscription
from tests.integration.rebuild_facts import some_rows, store_batch
from tests.integration.roles import AGGREGATOR, BILLING, READONLY, TENANT
from tests.integration.test_roles import acting_as, expect_denied
from tests.unit.aggregator.facts import NOON, delta, recorded

HISTOGRAMS = ", ".join(f"sum(latency_histogram[{bucket}])" for bucket in range(1, 13))
SUMS = f"""period_type, period_start, model_id, tool_name, sum(request_count), sum(error_count), sum(request_tokens), sum(response_tokens),
           sum(cached_tokens), sum(latency_sum_ms), sum(latency_count), ARRAY[{HISTOGRAMS}]"""
DIFFERING = f"""
    WITH s AS (SELECT {SUMS} FROM usage_summaries GROUP BY 1, 2, 3, 4), t AS (SELECT {SUMS} FROM usage_totals GROUP BY 1, 2, 3, 4)
    (TABLE s EXCEPT TABLE t) UNION ALL (TABLE t EXCEPT TABLE s)"""  # noqa: S608
HISTOGRAM = [0] * 12


async def differing(pool: Pool | Connection) -> list[Any]:
    """Return the sums that only one of the two has; what sums to nothing need not be on either side."""
    return [row for row in await pool.fetch(DIFFERING) if any(value for value in list(row)[4:] if value != HISTOGRAM)]


async def by_partition(pool: Pool) -> dict[int, int]:
    rows = await pool.fetch(
        "SELECT partition, sum(request_count)::int FROM usage_totals WHERE period_type = 'day' GROUP BY 1 ORDER BY 1"
    )
    return {row[0]: row[1] for row in rows}


async def version_before(connection: Connection, partition: int, added: Sequence[Any]) -> None:
    """In place of `add_totals`: knows of none."""


def usage_of(owners: Sequence[UUID], chance: random.Random) -> list[Any]:
    """Return usage of any kind, some of it taken back: together more than nothing, as messages are."""
    some = [
        delta(
            chance.choice(owners),
            hour=NOON - chance.randrange(1_000) * HOUR,
            requests=chance.choice([-2, 1, 5]),
            tokens=chance.randrange(100),
            **chance.choice([{}, {"model_id": "claude"}, {"model_id": "", "tool_name": "search"}]),
            **chance.choice([{}, {"latency_sum_ms": 70, "latency_count": 1, "latency_histogram": [0, 1] + [0] * 10}]),
        )
        for _ in range(chance.randrange(1, 40))
    ]
    return [delta(owners[0], requests=100), *some]


@pytest.mark.parametrize("old", [(), (1,), (0, 1)], ids=str)
async def test_slices_of_partitions_at_once(
    database_pool: Pool, monkeypatch: pytest.MonkeyPatch, old: tuple[int, ...]
) -> None:
    """`old`: of which partitions the version before has the slices."""
    add, chance = store.add_totals, random.Random(7)

    async def by_version(connection: Connection, partition: int, added: Sequence[Any]) -> None:
        await (version_before if partition in old else add)(connection, partition, added)

    monkeypatch.setattr(store, "add_totals", by_version)
    owners = [await make_subscription(database_pool) for _ in range(8)]
    workers = [Aggregator(database_pool, partition) for partition in range(3)]

    async def work(worker: Aggregator) -> None:
        for _ in range(8):
            await worker.apply(recorded(*usage_of(owners, chance)), recorded(*usage_of(owners, chance)))

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, workers))
    assert await differing(database_pool) == []
    assert set(await by_partition(database_pool)) == {partition for partition in range(3) if partition not in old} | (
        {-1} if old else set()
    )


async def test_slices_of_two_partitions_do_not_wait_for_each_others_totals(database_pool: Pool) -> None:
    one, other = await make_subscription(database_pool), await make_subscription(database_pool)
    async with transaction(database_pool) as open_:
        summaries = fold([recorded(delta(one, requests=2))]).summaries
        await store.add_totals(open_, 1, totals(summaries))
        await store.add_summaries(open_, summaries)
        async with asyncio.timeout(10):
            await Aggregator(database_pool).apply(recorded(delta(other)))  # the same hour and model
    assert await by_partition(database_pool) == {0: 1, 1: 2}
    assert await differing(database_pool) == []


async def test_usage_taken_back_in_another_partition(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    await Aggregator(database_pool).apply(recorded(delta(owner, tokens=9)))
    await Aggregator(database_pool, 1).apply(replace(recorded(delta(owner, requests=-1, tokens=-9)), event_count=1))
    assert await by_partition(database_pool) == {0: 1, 1: -1}
    assert await differing(database_pool) == []
    assert await database_pool.fetchval("SELECT sum(request_tokens) FROM usage_totals WHERE period_type = 'month'") == 0


async def test_a_slice_that_fails_leaves_no_totals_and_the_next_is_followed(
    database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a transaction says to the trigger ends with it, on a connection that others use."""
    owner, worker = await make_subscription(database_pool), Aggregator(database_pool)

    async def fail(*_: Any) -> None:
        raise ConnectionError("planted")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(store, "touch_api_keys", fail)
        await worker.apply(recorded(delta(owner)))
    assert await by_partition(database_pool) == {}
    await worker.apply(recorded(delta(owner)))
    for _ in range(12):  # every connection of the pool
        await database_pool.execute("UPDATE usage_summaries SET request_tokens = request_tokens + 1")
    assert await differing(database_pool) == []


BY_HAND = {
    "grows": "UPDATE usage_summaries SET request_tokens = request_tokens + 7, latency_histogram[3] = 9 WHERE period_type = 'day'",
    "moves": "UPDATE usage_summaries SET model_id = 'other', tool_name = '' WHERE model_id = 'gpt-4o'",
    "goes": "DELETE FROM usage_summaries WHERE period_type = 'hour'",
    "all goes": "TRUNCATE usage_summaries",
    "comes": """INSERT INTO usage_summaries (subscription_id, period_type, period_start, request_count, latency_histogram)
                VALUES (gen_random_uuid(), 'day', '2026-11-14Z', 3, array_fill(0, '{12}')) ON CONFLICT DO NOTHING""",
}


@pytest.mark.parametrize("change", BY_HAND)
async def test_what_is_changed_by_hand_is_followed(database_pool: Pool, change: str) -> None:
    """By the trigger keep_usage_totals, whose statement is that of repair_usage_totals: usage_totals_statement."""
    owner = await make_subscription(database_pool)
    await Aggregator(database_pool).apply(recorded(*usage_of([owner], random.Random(3))))
    await database_pool.execute(BY_HAND[change])
    assert await differing(database_pool) == []


async def test_a_rebuild_leaves_totals_that_are_the_sum_even_without_the_trigger(
    database: str, database_pool: Pool
) -> None:
    chance, owner, worker = random.Random(5), await make_subscription(database_pool), Aggregator(database_pool)
    await worker.apply(*await store_batch(database_pool, some_rows(chance, [owner], 40)))
    connection = await asyncpg.connect(database, server_settings={"TimeZone": "UTC"})
    try:
        for disabled in (False, True):
            if disabled:
                await connection.execute("ALTER TABLE usage_summaries DISABLE TRIGGER USER")
            await connection.execute(
                "UPDATE usage_summaries SET request_tokens = 1; DELETE FROM usage_summaries WHERE period_type = 'month'"
            )
            assert bool(await differing(connection)) is disabled
            await heal(connection, Scope(), (await verify(connection, Scope())).subscriptions)
            assert await differing(connection) == []
    finally:
        await connection.close()


async def test_totals_are_repaired_while_slices_go_on(database_pool: Pool) -> None:
    """And filled at first: that a migration finds summaries without totals is the same."""
    owner, worker = await make_subscription(database_pool), Aggregator(database_pool)
    await worker.apply(recorded(*usage_of([owner], random.Random(1))))
    await database_pool.execute("DELETE FROM usage_totals; UPDATE usage_summaries SET error_count = error_count + 1")
    async with transaction(database_pool) as open_:
        await store.begin(open_)
        assert await open_.fetchval("SELECT repair_usage_totals()") > 0
        async with asyncio.timeout(10):
            await worker.apply(recorded(*usage_of([owner], random.Random(2))))
    assert await differing(database_pool) == []
    assert await database_pool.fetchval("SELECT repair_usage_totals()") == 0


async def test_reconciliation_sees_totals_that_are_not_the_sum(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    await Aggregator(database_pool).apply(recorded(delta(owner, tokens=5)))

    async def broken() -> list[str]:
        async with database_pool.acquire() as connection:
            return [check.name for check in await reconcile(connection) if "totals" in check.name and not check.holds]

    assert await broken() == []
    for period_type in ("hour", "day", "month"):
        await database_pool.execute(
            "UPDATE usage_totals SET request_tokens = request_tokens + 1 WHERE period_type = $1", period_type
        )
        assert await broken() == ["summaries = totals: request tokens"], period_type
        await database_pool.execute("SELECT repair_usage_totals()")
    assert await broken() == []


async def test_who_reads_all_reads_totals_and_tenants_do_not(connection: Connection) -> None:
    for role in (AGGREGATOR, BILLING, READONLY):
        async with acting_as(connection, role):
            await connection.fetch("SELECT * FROM usage_totals")
    for role, sql in (
        (TENANT, "SELECT FROM usage_totals"),
        (READONLY, "UPDATE usage_totals SET request_count = 0"),
        (BILLING, "UPDATE usage_totals SET request_count = 0"),
        (READONLY, "SELECT repair_usage_totals()"),
        (AGGREGATOR, "DELETE FROM usage_totals"),
        (AGGREGATOR, "UPDATE usage_totals SET partition = 0"),
    ):
        async with acting_as(connection, role):
            await expect_denied(connection, sql)
