"""What is derived from the log can be computed anew, compared and healed, at rest and while traffic flows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from services.aggregator.handlers import ApplyRecorded
from services.aggregator.rebuild import Findings, Healed, Scope, heal, verify, widened
from services.aggregator.rebuild import rebuild as rebuilding
from services.aggregator.rebuild import store as rebuild_store
from services.billing.rating.comparison import compare_with_log
from services.billing.reconciliation import reconcile
from shared.consumer import AfterCommit, Slice
from shared.postgres import Connection, Pool
from tests.integration.aggregator_facts import DECEMBER, NOVEMBER, Aggregator, make_subscription, subscription, used
from tests.integration.billing_facts import Desk, make_customer, make_price, usage
from tests.integration.rebuild_facts import derived, some_rows, store_batch
from tests.unit.aggregator.facts import NOON

EVERYTHING = Scope()
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the command's own, outside of any transaction."""
    connection = await asyncpg.connect(database, server_settings={"TimeZone": "UTC"})
    yield connection
    await connection.close()


async def lived(pool: Pool, seed: int) -> tuple[list[UUID], Aggregator]:
    """Let three subscriptions use something in several batches, some split, counted as they came; return them and the aggregator."""
    chance = random.Random(seed)
    subscriptions = [await make_subscription(pool) for _ in range(2)]
    subscriptions.append(
        await make_subscription(pool, quota_period_start=datetime(2026, 10, 15, 6, tzinfo=UTC), reset_at=None)
    )
    aggregator = Aggregator(pool)
    for _ in range(chance.randrange(3, 8)):
        parts = chance.choice([1, 1, 3])
        messages = await store_batch(pool, some_rows(chance, subscriptions, chance.randrange(1, 60)), parts=parts)
        await aggregator.apply(*messages)
    return subscriptions, aggregator


async def heal_all(connection: Connection, scope: Scope = EVERYTHING) -> tuple[Findings, Healed]:
    findings = await verify(connection, scope)
    return findings, await heal(connection, scope, findings.subscriptions)


async def differing_checks(connection: Connection) -> list[str]:
    """Reconcile; billing has heard of nothing in these tests, so its statements are left out."""
    return [check.name for check in await reconcile(connection) if not check.holds and "billing" not in check.name]


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_maintained_live_is_what_a_rebuild_gives(
    database_pool: Pool, connection: asyncpg.Connection, seed: int
) -> None:
    await lived(database_pool, seed)
    findings = await verify(connection, EVERYTHING)
    assert (findings.total, findings.left_out) == (0, [])
    assert findings.events == await connection.fetchval("SELECT count(*) FROM usage_logs")
    live = await derived(database_pool)
    await connection.execute(
        "DELETE FROM usage_summaries; DELETE FROM usage_hours; UPDATE subscriptions SET used_requests = 0, used_tokens = 0"
    )
    findings, healed = await heal_all(connection)
    assert findings.total > 0
    assert healed.summaries == len(live[0])
    assert await derived(database_pool) == live
    assert await differing_checks(connection) == []


CORRUPTIONS = {
    "an hour grew": "UPDATE usage_summaries SET request_tokens = request_tokens + 7 WHERE period_type = 'hour'",
    "a day lost its latencies": """UPDATE usage_summaries SET latency_sum_ms = 0, latency_count = 0 WHERE period_type = 'day'""",
    "a histogram moved": """UPDATE usage_summaries SET latency_histogram = latency_histogram[2:] || latency_histogram[1:1]
                            WHERE period_type = 'month'""",
    "a month vanished": "DELETE FROM usage_summaries WHERE period_type = 'month' AND subscription_id = $1",
    "an hour appeared": """INSERT INTO usage_summaries (subscription_id, period_type, period_start, model_id, request_count, latency_histogram)
                           VALUES ($1, 'hour', '2026-11-03T04:00Z', 'never', 3, array_fill(0, ARRAY[12]))""",
    "an hour of a use grew": "UPDATE usage_hours SET response_tokens = response_tokens + 7 WHERE subscription_id = $1",
    "an hour of a use vanished": "DELETE FROM usage_hours WHERE subscription_id = $1 AND failed",
    "a use moved to another app": """UPDATE usage_hours SET app_id = 'else',
        kind = usage_kind(model_id, tool_name, provider, feature_type, power_level, byok, failed, 'else') WHERE app_id = 'shop'""",
    "a use got another name": "UPDATE usage_hours SET app_id = 'else' WHERE app_id = 'shop'",
    "a counter drifted": "UPDATE subscriptions SET used_tokens = used_tokens + 1, used_requests = 0 WHERE id = $1",
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corruption_is_found_and_healed(
    database_pool: Pool, connection: asyncpg.Connection, corruption: str
) -> None:
    (first, *_), _ = await lived(database_pool, 1)
    live = await derived(database_pool)
    sql = CORRUPTIONS[corruption]
    await connection.execute(sql, *([first] if "$1" in sql else []))
    assert await derived(database_pool) != live
    findings, healed = await heal_all(connection)
    assert findings.differences
    assert all(difference.measures for difference in findings.differences)
    assert healed.summaries + healed.counters == findings.total
    assert await derived(database_pool) == live
    assert (await verify(connection, EVERYTHING)).total == 0


async def test_a_batch_that_is_not_applied_yet_is_neither_missing_nor_counted_twice(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    (first, *_), aggregator = await lived(database_pool, 2)
    under_way = await store_batch(database_pool, [usage(first, at=NOON, request_tokens=100)])
    assert (await verify(connection, EVERYTHING)).total == 0
    await connection.execute("UPDATE usage_summaries SET request_tokens = 0")
    await heal_all(connection)
    await aggregator.apply(*under_way)
    assert (await verify(connection, EVERYTHING)).total == 0
    assert await differing_checks(connection) == []


async def test_a_batch_that_is_applied_in_part_keeps_its_subscriptions_out(
    database_pool: Pool, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "LOOK_AGAIN_SECONDS", 0.0)
    (first, second, _), aggregator = await lived(database_pool, 3)
    rows = [usage(first, at=NOON), usage(first, at=NOON, model="claude")]
    early, late = await store_batch(database_pool, rows, parts=2)
    await aggregator.apply(early)
    await connection.execute("UPDATE usage_summaries SET cached_tokens = 0 WHERE period_type = 'month'")
    findings, _ = await heal_all(connection)
    assert findings.left_out == [first]
    assert first not in findings.subscriptions
    assert (await heal(connection, EVERYTHING, [first, second])).left_out == [first]
    await aggregator.apply(late)
    assert {d.subscription_id for d in (await verify(connection, EVERYTHING)).differences} <= {first}
    await heal_all(connection)
    assert (await verify(connection, EVERYTHING)).total == 0


async def waits_for_lock(pool: Pool, query: str) -> None:
    """Return when a session waits for a lock with a statement like `query`."""
    async with asyncio.timeout(20):
        while not await pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1 AND datname = current_database()",
            f"%{query}%",
        ):
            pass


class Held(ApplyRecorded):
    """The aggregator's handler, stopped before its COMMIT until it is let go."""

    reached: asyncio.Event
    let_go: asyncio.Event

    async def __call__(self, connection: Connection, batch: Slice) -> AfterCommit:
        after_commit = await super().__call__(connection, batch)
        self.reached.set()
        await self.let_go.wait()
        return after_commit


async def test_healing_waits_for_an_aggregator_that_came_first_and_sees_what_it_added(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    """The usage is late: its summaries change but no counter does, so nothing but the lock tells that a snapshot is stale."""
    (first, *_), aggregator = await lived(database_pool, 1)
    late = await store_batch(database_pool, [usage(first, at=datetime(2026, 9, 5, tzinfo=UTC), request_tokens=9)])
    await connection.execute("UPDATE usage_summaries SET error_count = 0, response_tokens = 1")
    held = Held("main", aggregator.clock, aggregator.counters, aggregator.wake)
    object.__setattr__(held, "reached", asyncio.Event())
    object.__setattr__(held, "let_go", asyncio.Event())
    aggregator.handler = held
    applying = asyncio.create_task(aggregator.apply(*late))
    await held.reached.wait()
    findings = await verify(connection, EVERYTHING)  # does not wait, and does not see the batch
    healing = asyncio.create_task(heal(connection, EVERYTHING, findings.subscriptions))
    await waits_for_lock(database_pool, "ORDER BY id FOR NO KEY UPDATE")
    held.let_go.set()
    await applying
    await healing
    assert (await verify(connection, EVERYTHING)).total == 0
    assert await differing_checks(connection) == []


async def test_an_aggregator_that_comes_later_waits_and_adds_to_what_was_healed(
    database_pool: Pool, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *_), aggregator = await lived(database_pool, 2)
    await connection.execute("UPDATE usage_summaries SET request_tokens = 0")
    next_batch = await store_batch(database_pool, [usage(first, at=NOON, request_tokens=9)])
    recompute, applying = rebuild_store.recompute, []

    async def recompute_after_it_waits(connection: Connection, selected: rebuild_store.Selection) -> int:
        applying.append(asyncio.create_task(aggregator.apply(*next_batch)))
        await waits_for_lock(database_pool, "FROM subscriptions%FOR NO KEY UPDATE")
        return await recompute(connection, selected)

    findings = await verify(connection, EVERYTHING)
    monkeypatch.setattr(rebuild_store, "recompute", recompute_after_it_waits)
    await heal(connection, EVERYTHING, findings.subscriptions)
    monkeypatch.undo()
    await asyncio.gather(*applying)
    assert (await verify(connection, EVERYTHING)).total == 0
    assert await differing_checks(connection) == []


async def test_a_corrupted_summary_and_counter_are_healed_while_a_writer_goes_on(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    subscriptions, aggregator = await lived(database_pool, 5)
    chance, stop = random.Random(5), asyncio.Event()

    async def write() -> int:
        batches = 0
        while not stop.is_set():
            messages = await store_batch(
                database_pool, some_rows(chance, subscriptions, 20), parts=chance.choice([1, 2])
            )
            await asyncio.sleep(0)  # a rebuild may come between a batch and its message
            await aggregator.apply(*messages)
            batches += 1
        return batches

    writing = asyncio.create_task(write())
    healed = 0
    for round_ in range(12):
        victim = chance.choice(subscriptions)
        async with connection.transaction():  # the subscription first, as the writer does: else the two may deadlock
            await connection.execute(
                "UPDATE subscriptions SET used_tokens = used_tokens + $2 WHERE id = $1", victim, round_ + 1
            )
            await connection.execute(
                "UPDATE usage_summaries SET request_tokens = request_tokens + 1000, latency_sum_ms = 0 WHERE subscription_id = $1",
                victim,
            )
        findings, done = await heal_all(connection)
        assert {"month", "counter"} <= findings.counts.keys()
        healed += done.summaries
        assert (await verify(connection, EVERYTHING)).total == 0
    stop.set()
    assert await writing > 0
    assert healed > 0
    assert (await verify(connection, EVERYTHING)).total == 0
    assert await differing_checks(connection) == []


async def test_only_the_range_and_the_subscription_are_touched(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    (first, second, _), _ = await lived(database_pool, 6)
    await connection.execute("UPDATE usage_summaries SET cached_tokens = 0 WHERE period_type = 'month'")
    scope = widened(NOVEMBER + timedelta(days=3), NOVEMBER + timedelta(days=4), first)
    findings, _ = await heal_all(connection, scope)
    assert {(d.subscription_id, d.period_start) for d in findings.differences} == {(first, NOVEMBER)}
    rest = await verify(connection, EVERYTHING)
    assert (first, NOVEMBER) not in {(d.subscription_id, d.period_start) for d in rest.differences}
    assert second in rest.subscriptions
    assert (await verify(connection, widened(DECEMBER, None))).events == 0


async def test_a_counter_whose_period_begins_before_the_range_counts_the_hours_outside_as_they_are_stored(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    (_, _, across), _ = await lived(database_pool, 7)
    before = await used(database_pool, across)
    await connection.execute("UPDATE subscriptions SET used_requests = 0, used_tokens = 0 WHERE id = $1", across)
    findings, healed = await heal_all(connection, widened(NOVEMBER, DECEMBER))
    assert (findings.counts, healed.counters) == ({"counter": 1}, 1)
    assert await used(database_pool, across) == before


async def test_a_healed_counter_reactivates_and_the_audit_says_who_did_it(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    id_ = await make_subscription(database_pool, quota_requests=10)
    await Aggregator(database_pool).apply(*await store_batch(database_pool, [usage(id_, at=NOON)]))
    await connection.execute("UPDATE subscriptions SET used_requests = 10 WHERE id = $1", id_)
    assert (await subscription(database_pool, id_))["status"] == "suspended"
    await heal_all(connection)
    row = await subscription(database_pool, id_)
    assert (row["status"], row["used_requests"]) == ("active", 1)
    assert row["status_version"] > row["status_published_version"]
    last = await connection.fetchrow(
        "SELECT * FROM audit_logs WHERE resource_id = $1 ORDER BY created_at DESC LIMIT 1", str(id_)
    )
    assert "rebuild" in str(dict(last))


async def test_rated_usage_is_compared_with_the_log(database_pool: Pool, connection: asyncpg.Connection) -> None:
    desk, customer = Desk(database_pool), await make_customer(connection)
    await make_price(connection)
    at = datetime(2026, 10, 14, 12, tzinfo=UTC)
    await desk.use(
        usage(customer.subscription_id, at=at, request_tokens=10),
        usage(customer.subscription_id, at=at, status_code=500),
    )
    bounds = (OCTOBER, NOVEMBER, None)
    assert await compare_with_log(connection, *bounds, limit=5) == (0, [])
    await connection.execute(
        "ALTER TABLE rated_usage DISABLE TRIGGER USER; UPDATE rated_usage SET request_tokens = 9 WHERE status_class = 2"
    )
    total, (found,) = await compare_with_log(connection, *bounds, limit=5)
    assert (total, found.measures) == (1, ["request_tokens"])
    assert (found.rated["request_tokens"], found.logged["request_tokens"]) == (9, 10)
    assert await compare_with_log(connection, NOVEMBER, DECEMBER, None, limit=5) == (0, [])


async def test_usage_that_billing_has_not_heard_of_is_no_difference(
    database_pool: Pool, connection: asyncpg.Connection
) -> None:
    id_ = await make_subscription(database_pool)
    await store_batch(database_pool, [usage(id_, at=NOON)])
    assert await compare_with_log(connection, OCTOBER, DECEMBER, id_, limit=5) == (0, [])
