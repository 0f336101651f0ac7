"""Usage that is taken back: summaries, quotas and proofs sum, whatever comes first."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from services.aggregator.jobs import UsageSummaryRefresh
from services.aggregator.quota import remaining
from services.aggregator.rebuild import Scope, verify
from services.billing.reconciliation import reconcile
from shared.contracts import UsageRecorded
from shared.postgres import Pool
from tests.integration.aggregator_facts import Aggregator, make_subscription, subscription, summed, used
from tests.integration.billing_facts import make_price, usage
from tests.integration.rebuild_facts import some_rows, store_batch, take_back
from tests.unit.aggregator.facts import NOON


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection outside of any transaction."""
    connection = await asyncpg.connect(database, server_settings={"TimeZone": "UTC"})
    yield connection
    await connection.close()


async def test_usage_that_is_taken_back_gives_the_quota_back(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, status="trialing", quota_requests=2)
    aggregator = Aggregator(database_pool)
    first = await store_batch(database_pool, [usage(owner, at=NOON, request_tokens=70)])
    second = await store_batch(database_pool, [usage(owner, at=NOON, request_tokens=5)])
    await aggregator.apply(*first, *second)
    row = await subscription(database_pool, owner)
    assert (row["status"], row["suspended_reasons"], row["used_tokens"]) == ("suspended", ["quota_requests"], 75)

    await aggregator.apply(*await take_back(database_pool, first))
    row = await subscription(database_pool, owner)
    assert (row["status"], row["suspended_reasons"]) == ("trialing", [])
    assert await used(database_pool, owner) == (1, 5)
    assert row["status_version"] > row["status_published_version"]


async def test_usage_of_a_past_quota_period_gives_nothing_back(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=1)
    aggregator = Aggregator(database_pool)
    october = await store_batch(database_pool, [usage(owner, at=NOON - timedelta(days=30))])
    await aggregator.apply(*october, *await store_batch(database_pool, [usage(owner, at=NOON)]))
    await aggregator.apply(*await take_back(database_pool, october))
    assert (await subscription(database_pool, owner))["status"] == "suspended"


async def test_a_reversal_may_come_before_what_it_takes_back(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool, quota_requests=100, quota_tokens=100)
    row = usage(owner, at=NOON, request_tokens=70, latency_ms=120, status_code=500)
    original = await store_batch(database_pool, [row])
    reversal = await take_back(database_pool, original)

    await Aggregator(database_pool, partition=1).apply(*reversal)
    assert await used(database_pool, owner) == (-1, -70)
    assert remaining(100, -70) == 100
    shown = await database_pool.fetchrow(
        "SELECT remaining_requests, remaining_tokens FROM active_subscriptions WHERE id = $1", owner
    )
    assert tuple(shown) == (100, 100)

    await Aggregator(database_pool, partition=0).apply(*original)
    assert await used(database_pool, owner) == (0, 0)
    sums = await database_pool.fetch("SELECT * FROM usage_summaries WHERE subscription_id = $1", owner)
    assert len(sums) == 3
    for row_ in sums:
        assert (row_["request_count"], row_["error_count"], row_["total_tokens"], row_["latency_sum_ms"]) == (
            0,
            0,
            0,
            0,
        )
        assert (row_["latency_count"], set(row_["latency_histogram"])) == (0, {0})


async def _lived(pool: Pool, seed: int, *, since: datetime = NOON - timedelta(days=100)) -> None:
    """Let usage, and reversals of some of it, be counted in any order."""
    chance = random.Random(seed)
    subscriptions = [await make_subscription(pool) for _ in range(3)]
    messages: list[UsageRecorded] = []
    for _ in range(chance.randrange(3, 7)):
        rows = [row for row in some_rows(chance, subscriptions, chance.randrange(5, 60)) if row.created_at >= since]
        batch = await store_batch(pool, rows, parts=chance.choice([1, 2]))
        messages += batch
        if chance.random() < 0.6:
            messages += await take_back(pool, batch)
    chance.shuffle(messages)
    aggregator = Aggregator(pool)
    while messages:
        count = chance.randrange(1, 4)
        await aggregator.apply(*messages[:count])
        del messages[:count]


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_counted_live_is_what_the_log_sums_to(
    database_pool: Pool, connection: asyncpg.Connection, seed: int
) -> None:
    await _lived(database_pool, seed)
    findings = await verify(connection, Scope())
    assert (findings.total, findings.left_out, findings.negative) == (0, [], [])
    differing = {check.name.split(":")[0] for check in await reconcile(connection) if not check.holds}
    assert differing <= {"batches = billing inbox", "log = rated"}, "billing has heard of nothing here"


async def test_verify_tells_of_an_hour_from_which_more_was_taken_back_than_was_used(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    owner = await make_subscription(database_pool)
    original = await store_batch(database_pool, [usage(owner, at=NOON, request_tokens=7)])
    reversal = await take_back(database_pool, original)
    await Aggregator(database_pool).apply(*reversal)  # the original's own message is lost

    findings = await verify(connection, Scope())
    assert findings.total == 0
    [hour] = findings.negative
    assert (hour.subscription_id, hour.hour, hour.model_id) == (owner, NOON, "gpt-4o")
    assert (hour.figures["requests"], hour.figures["request_tokens"]) == (-1, -7)

    await Aggregator(database_pool).apply(*original)
    assert (await verify(connection, Scope())).negative == []


# --- llm_usage_summary -----------------------------------------------------------------------------------------------


async def _summary(pool: Pool) -> dict[Any, tuple[Any, ...]]:
    await UsageSummaryRefresh(pool)()
    rows = await pool.fetch("SELECT * FROM llm_usage_summary")
    return {(row["user_id"], row["usage_date"], row["provider"], row["model"]): tuple(row) for row in rows}


async def test_the_summary_of_days_that_changed_is_the_summary_of_all(database_pool: Pool) -> None:
    await make_price(database_pool, currency="EUR")
    recent = datetime.now(UTC) - timedelta(days=35)  # what is older is looked for once a day
    await _lived(database_pool, 11, since=recent)
    await _summary(database_pool)
    await _lived(database_pool, 12, since=recent)
    piecewise = await _summary(database_pool)
    await database_pool.execute("TRUNCATE llm_usage_days")
    await database_pool.execute("UPDATE llm_usage_refreshes SET begun_at = '-infinity', whole_at = '-infinity'")
    assert await _summary(database_pool) == piecewise
    assert len(piecewise) > 20


async def test_days_that_did_not_change_are_not_read_again(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    aggregator = Aggregator(database_pool)
    await aggregator.apply(*await store_batch(database_pool, [usage(owner, at=NOON)]))
    await aggregator.apply(*await store_batch(database_pool, [usage(owner, at=NOON - timedelta(days=1))]))
    assert len(await _summary(database_pool)) == 2
    await database_pool.execute(
        "UPDATE usage_summaries SET updated_at = updated_at - interval '1 hour' WHERE period_start < $1",
        NOON.replace(hour=0),
    )
    await database_pool.execute("UPDATE llm_usage_days SET requests = 77")

    requests = {day: row[5] for (_, day, _, _), row in (await _summary(database_pool)).items()}
    assert requests == {NOON.date(): 1, (NOON - timedelta(days=1)).date(): 77}


@pytest.mark.parametrize(("who", "in_passing"), [("everybody", 1_000), ("one", 0)])
async def test_a_day_is_read_in_one_pass_where_most_of_it_is_to_be_read(
    database_pool: Pool, who: str, in_passing: int
) -> None:
    owners = [await make_subscription(database_pool) for _ in range(20)]
    aggregator = Aggregator(database_pool)
    batch = [usage(owner, at=NOON, end_user=f"{n:0200}") for n in range(50) for owner in owners]
    await aggregator.apply(*await store_batch(database_pool, batch))
    if who == "one":
        await _summary(database_pool)
        await database_pool.execute("UPDATE usage_summaries SET updated_at = updated_at - interval '1 hour'")
        await aggregator.apply(*await store_batch(database_pool, [usage(owners[0], at=NOON)]))
    await database_pool.execute("VACUUM ANALYZE usage_logs")

    async with database_pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT refresh_usage_summary()")
        found = await connection.fetchrow(
            "SELECT sum(seq_tup_read)::int AS in_passing, sum(idx_scan)::int AS looked_up "
            "FROM pg_stat_xact_user_tables WHERE relname LIKE 'usage\\_logs\\_%'"
        )
        assert await connection.fetchval("SELECT current_setting('enable_nestloop')") == "on"
    assert (found["in_passing"], found["looked_up"] == 0) == (in_passing, in_passing > 0)


async def test_a_new_price_for_days_that_are_over_is_seen(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    await Aggregator(database_pool).apply(
        *await store_batch(database_pool, [usage(owner, at=NOON, request_tokens=1_000)])
    )
    [before] = (await _summary(database_pool)).values()
    await database_pool.execute("UPDATE usage_summaries SET updated_at = updated_at - interval '1 hour'")
    await make_price(database_pool, per_1k=("2", "1", "4"), currency="EUR")
    [after] = (await _summary(database_pool)).values()
    assert (before[13], after[13]) == (None, 2)


async def test_a_summary_holds_what_was_taken_back_as_nothing(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    original = await store_batch(database_pool, [usage(owner, at=NOON, request_tokens=9)])
    await Aggregator(database_pool).apply(*original, *await take_back(database_pool, original))
    [row] = (await _summary(database_pool)).values()
    assert (row[5], row[12]) == (0, 0)
    assert (await summed(database_pool, owner, "day")) == {NOON.replace(hour=0): (0, 0)}
