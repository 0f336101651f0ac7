"""What API keys use by UTC day, and when gateways hear that a limit is reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from uuid import UUID

import asyncpg
import msgspec
import pytest

from services.aggregator.jobs import KeyDaysForgetting
from services.aggregator.rebuild import Scope, heal, verify
from services.aggregator.status import StatusPublisher
from services.billing.reconciliation import reconcile
from shared.clock import FixedClock
from shared.contracts import ExhaustedKey, SubscriptionStatus
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import Aggregator, Published, make_subscription
from tests.integration.billing_facts import usage
from tests.integration.rebuild_facts import store_batch, take_back
from tests.unit.aggregator.facts import NOON, delta, recorded

TODAY, DAY = NOON.date(), timedelta(days=1)


async def make_key(pool: Pool, owner: UUID, *, limit: int | None = 3) -> UUID:
    key = uuid7()
    await pool.execute(
        """INSERT INTO api_keys (id, subscription_id, user_id, key_hash, key_prefix, quota_requests_per_day)
           SELECT $1::uuid, id, user_id, repeat(md5($1::uuid::text), 2), 'ts_', $3 FROM subscriptions WHERE id = $2""",
        key, owner, limit,
    )  # fmt: skip
    return key


@pytest.fixture
async def owner(database_pool: Pool) -> UUID:
    return await make_subscription(database_pool)


async def days(pool: Pool, key: UUID) -> dict[date, tuple[int, int]]:
    rows = await pool.fetch("SELECT day, requests, tokens FROM api_key_days WHERE api_key_id = $1", key)
    return {row["day"]: (row["requests"], row["tokens"]) for row in rows}


async def heard(aggregator: Aggregator, at: FixedClock | None = None) -> list[list[ExhaustedKey]]:
    """Publish; return the exhausted keys of each message."""
    published = Published()
    await StatusPublisher(aggregator.pool, published, at or aggregator.clock, seconds=1).publish()
    return [
        msgspec.json.decode(message.value or b"", type=SubscriptionStatus).exhausted_keys
        for message in published.messages
    ]


async def test_usage_is_counted_by_key_and_utc_day_of_its_event_time(database_pool: Pool, owner: UUID) -> None:
    one, other = await make_key(database_pool, owner), await make_key(database_pool, owner)
    late = NOON - timedelta(hours=13)
    await Aggregator(database_pool).apply(
        recorded(delta(owner, requests=2, tokens=5, api_key_id=one), delta(owner, api_key_id=other), delta(owner)),
        recorded(
            delta(owner, requests=4, tokens=1, api_key_id=one, hour=late), delta(owner, api_key_id=one, model_id="x")
        ),
    )
    assert await days(database_pool, one) == {TODAY: (3, 5), TODAY - DAY: (4, 1)}
    assert await days(database_pool, other) == {TODAY: (1, 0)}


async def test_gateways_hear_of_a_limit_once_when_it_is_reached(database_pool: Pool, owner: UUID) -> None:
    key, aggregator = await make_key(database_pool, owner, limit=3), Aggregator(database_pool)
    assert await heard(aggregator) == [[]]
    await aggregator.apply(recorded(delta(owner, requests=2, api_key_id=key)))
    assert (await heard(aggregator), aggregator.wakes) == ([], 0)
    await aggregator.apply(recorded(delta(owner, api_key_id=key)))
    assert aggregator.wakes == 1
    assert await heard(aggregator) == [[ExhaustedKey(key, TODAY)]]
    await aggregator.apply(recorded(delta(owner, requests=5, api_key_id=key)))
    assert await heard(aggregator) == []


async def test_late_usage_of_yesterday_exhausts_nothing_and_that_of_tomorrow_tomorrow(
    database_pool: Pool, owner: UUID
) -> None:
    key, aggregator = await make_key(database_pool, owner, limit=3), Aggregator(database_pool)
    await heard(aggregator)
    await aggregator.apply(recorded(delta(owner, requests=9, api_key_id=key, hour=NOON - timedelta(hours=13))))
    assert await heard(aggregator) == []
    await aggregator.apply(recorded(delta(owner, requests=9, api_key_id=key, hour=NOON + timedelta(hours=12))))
    assert await heard(aggregator) == [[ExhaustedKey(key, TODAY + DAY)]]


async def test_usage_that_is_taken_back_frees_the_key(database_pool: Pool, owner: UUID) -> None:
    key, aggregator = await make_key(database_pool, owner, limit=2), Aggregator(database_pool)
    batch = await store_batch(
        database_pool, [usage(owner, at=NOON, api_key_id=key, request_tokens=3) for _ in range(2)]
    )
    await aggregator.apply(*batch)
    assert (await heard(aggregator))[-1] == [ExhaustedKey(key, TODAY)]
    await aggregator.apply(*await take_back(database_pool, batch))
    assert await heard(aggregator) == [[]]
    assert await days(database_pool, key) == {TODAY: (0, 0)}


async def test_on_the_next_day_the_key_is_free_without_a_message(database_pool: Pool, owner: UUID) -> None:
    key, aggregator = await make_key(database_pool, owner, limit=1), Aggregator(database_pool)
    await aggregator.apply(recorded(delta(owner, api_key_id=key)))
    await heard(aggregator)
    tomorrow = FixedClock(NOON + DAY)
    assert await heard(aggregator, tomorrow) == []
    await database_pool.execute("UPDATE subscriptions SET quota_tokens = 10 WHERE id = $1", owner)
    assert await heard(aggregator, tomorrow) == [[]]


async def test_a_limit_that_changes_is_heard_of(database_pool: Pool, owner: UUID) -> None:
    """By the trigger announce_key_limit."""
    key, aggregator = await make_key(database_pool, owner, limit=None), Aggregator(database_pool)
    await aggregator.apply(recorded(delta(owner, requests=5, api_key_id=key)))
    assert await heard(aggregator) == [[]]
    for change, exhausted in (
        ("quota_requests_per_day = 5", [ExhaustedKey(key, TODAY)]),
        ("quota_requests_per_day = 6", []),
        ("quota_requests_per_day = 1", [ExhaustedKey(key, TODAY)]),
        ("is_active = false", []),
    ):
        await database_pool.execute(f"UPDATE api_keys SET {change} WHERE id = $1", key)  # noqa: S608
        assert await heard(aggregator) == [exhausted], change
    await database_pool.execute("UPDATE api_keys SET last_used_at = now() WHERE id = $1", key)
    assert await heard(aggregator) == []


async def test_a_limit_that_changes_while_usage_is_counted_is_heard_of(database_pool: Pool, owner: UUID) -> None:
    """The slice sees the old limit, which it does not reach: the change waits for it, and sees what it counted."""
    key, aggregator = await make_key(database_pool, owner, limit=100), Aggregator(database_pool)
    await heard(aggregator)
    async with transaction(database_pool) as slice_:
        await slice_.execute("SELECT FROM subscriptions WHERE id = $1 FOR NO KEY UPDATE", owner)
        change = asyncio.create_task(
            database_pool.execute("UPDATE api_keys SET quota_requests_per_day = 5 WHERE id = $1", key)
        )
        async with asyncio.timeout(10):
            while not await database_pool.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await slice_.execute("INSERT INTO api_key_days VALUES ($1, $2, $3, 7, 0)", owner, key, TODAY)
    await change
    assert await heard(aggregator) == [[ExhaustedKey(key, TODAY)]]


async def test_days_that_nothing_is_judged_by_are_forgotten(database_pool: Pool, owner: UUID) -> None:
    key, aggregator = await make_key(database_pool, owner), Aggregator(database_pool)
    for ago in (0, 9, 10, 11):
        await aggregator.apply(recorded(delta(owner, api_key_id=key, hour=NOON - ago * DAY)))
    await KeyDaysForgetting(aggregator.pool, aggregator.clock, 10 * DAY)()
    assert set(await days(database_pool, key)) == {TODAY - ago * DAY for ago in (0, 9, 10)}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_the_days_are_proved_by_the_log(database_pool: Pool, owner: UUID, connection: asyncpg.Connection) -> None:
    key, aggregator = await make_key(database_pool, owner), Aggregator(database_pool)
    for age in range(3):
        rows = [usage(owner, at=NOON - age * DAY, api_key_id=key, request_tokens=age) for _ in range(2)]
        batch = await store_batch(database_pool, rows)
        await aggregator.apply(*batch)
    await aggregator.apply(*await take_back(database_pool, batch))
    await store_batch(database_pool, [usage(owner, at=NOON, api_key_id=key)])  # not applied yet

    async def differing() -> set[str]:
        checks = [check for check in await reconcile(connection) if check.name.startswith("log = key days")]
        assert len(checks) == 2
        return {check.name for check in checks if not check.holds}

    assert await differing() == set()
    await KeyDaysForgetting(aggregator.pool, aggregator.clock, DAY)()
    assert await differing() == set()
    await database_pool.execute("UPDATE api_key_days SET requests = requests + 1 WHERE day = $1", TODAY)
    assert await differing() == {"log = key days: requests"}


async def test_days_that_were_changed_by_hand_are_found_and_healed(
    database_pool: Pool, owner: UUID, connection: asyncpg.Connection
) -> None:
    key, aggregator = await make_key(database_pool, owner, limit=2), Aggregator(database_pool)
    await aggregator.apply(*await store_batch(database_pool, [usage(owner, at=NOON, api_key_id=key, request_tokens=4)]))
    await heard(aggregator)
    truth = await days(database_pool, key)
    await database_pool.execute("UPDATE api_key_days SET requests = 9")
    await database_pool.execute("INSERT INTO api_key_days VALUES ($1, $2, $3, 1, 1)", owner, key, TODAY - DAY)

    findings = await verify(connection, Scope())
    assert findings.counts == {"key day": 2}
    assert [d.stored["requests"] for d in findings.differences] == [1, 9]
    assert [d.recomputed["requests"] for d in findings.differences] == [0, 1]
    assert f"key {key}" == findings.differences[0].tool_name

    await heal(connection, Scope(), findings.subscriptions)
    assert await days(database_pool, key) == {**truth, TODAY - DAY: (0, 0)}
    assert (await verify(connection, Scope())).total == 0
    assert await heard(aggregator) == [[]]
