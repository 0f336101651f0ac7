"""What a slice of usage.recorded does to summaries, counters, keys and the position, on a real database."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from uuid import UUID

import pytest

from shared.contracts import USAGE_RECORDED, encode
from shared.errors import BrokenInvariant
from shared.ids import uuid7
from shared.period import HOUR, day_start, month_start
from shared.postgres import Pool
from tests.integration.aggregator_facts import DECEMBER, NOVEMBER, Aggregator, make_subscription, summed, used
from tests.unit.aggregator.facts import NOON, delta, recorded


@pytest.fixture
def aggregator(database_pool: Pool) -> Aggregator:
    return Aggregator(database_pool)


async def test_usage_becomes_hour_day_month_and_counters_at_once(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    first = delta(owner, requests=2, tokens=10, response_tokens=5)
    await aggregator.apply(recorded(first, delta(owner, hour=NOON + HOUR, tokens=1)), recorded(first))

    assert await summed(database_pool, owner, "hour") == {NOON: (4, 30), NOON + HOUR: (1, 1)}
    assert await summed(database_pool, owner, "day") == {day_start(NOON): (5, 31)}
    assert await summed(database_pool, owner, "month") == {month_start(NOON): (5, 31)}
    assert await used(database_pool, owner) == (5, 31)
    assert await aggregator.position() == (2, 2, 0, 0)


async def test_figures_of_later_slices_are_added_bucket_by_bucket(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    slow = delta(
        owner, errors=1, cached_tokens=3, latency_sum_ms=900, latency_count=1, latency_histogram=[0] * 5 + [1] + [0] * 6
    )
    silent = delta(owner, requests=3)
    for message in (recorded(slow), recorded(silent), recorded(slow, silent)):
        await aggregator.apply(message)

    rows = await database_pool.fetch("SELECT * FROM usage_summaries WHERE subscription_id = $1", owner)
    assert {row["period_type"] for row in rows} == {"hour", "day", "month"}
    for row in rows:
        assert (row["request_count"], row["error_count"], row["cached_tokens"]) == (8, 2, 6)
        assert (row["latency_sum_ms"], row["latency_count"], row["avg_latency_ms"]) == (1800, 2, 900)
        assert row["latency_histogram"] == [0] * 5 + [2] + [0] * 6


async def test_a_message_that_comes_twice_is_applied_once(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    message, other = recorded(delta(owner, tokens=7)), recorded(delta(owner, tokens=1))
    await aggregator.apply(message, message)
    await aggregator.apply(message, other)
    await aggregator.apply(message)

    assert await summed(database_pool, owner, "hour") == {NOON: (2, 8)}
    assert await used(database_pool, owner) == (2, 8)
    assert await aggregator.position() == (5, 2, 3, 0)


async def test_parts_of_one_batch_are_messages_of_their_own(aggregator: Aggregator, database_pool: Pool) -> None:
    owner, batch = await make_subscription(database_pool), uuid7()
    parts = [
        recorded(delta(owner, tokens=tokens), batch_id=batch, part=part, parts=2) for part, tokens in enumerate((1, 2))
    ]
    await aggregator.apply(*parts, *parts)

    assert await used(database_pool, owner) == (2, 3)
    inbox = await database_pool.fetch(
        "SELECT part, event_count FROM aggregator_inbox WHERE batch_id = $1 ORDER BY part", batch
    )
    assert [tuple(row) for row in inbox] == [(0, 1), (1, 1)]


async def test_offsets_without_a_record_are_gaps(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    await aggregator.apply(recorded(delta(owner)), skip=3)
    assert await aggregator.position() == (4, 1, 0, 3)


async def test_a_slice_that_fails_leaves_nothing_behind(aggregator: Aggregator, database_pool: Pool) -> None:
    owner, good = await make_subscription(database_pool), recorded(delta(uuid7()))
    await aggregator.apply(good)
    with pytest.raises(BrokenInvariant, match="offset 2 is not"):
        await aggregator.apply_values([encode(recorded(delta(owner))), b"{}"])

    assert await used(database_pool, owner) == (0, 0)
    assert await summed(database_pool, owner, "hour") == {}
    assert await database_pool.fetchval("SELECT count(*) FROM aggregator_inbox") == 1
    assert await aggregator.position() == (1, 1, 0, 0)


async def test_usage_outside_the_quota_period_is_summed_but_not_counted(
    aggregator: Aggregator, database_pool: Pool
) -> None:
    owner = await make_subscription(database_pool)
    hours = [NOVEMBER - HOUR, NOVEMBER, DECEMBER - HOUR, DECEMBER]
    await aggregator.apply(recorded(*(delta(owner, hour=hour, tokens=1) for hour in hours)))

    assert list(await summed(database_pool, owner, "hour")) == hours
    assert await used(database_pool, owner) == (2, 2)


async def test_usage_of_a_subscription_that_does_not_exist_is_summed(
    aggregator: Aggregator, database_pool: Pool
) -> None:
    stranger, owner = uuid7(), await make_subscription(database_pool)
    await aggregator.apply(recorded(delta(stranger), delta(owner)))
    assert await summed(database_pool, stranger, "hour") == {NOON: (1, 0)}
    assert await used(database_pool, owner) == (1, 0)


async def test_tools_and_models_of_one_subscription_count_together(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    await aggregator.apply(recorded(delta(owner, tokens=4), delta(owner, model_id="", tool_name="search", requests=2)))
    rows = await database_pool.fetch(
        "SELECT model_id, tool_name, request_count FROM usage_summaries WHERE period_type = 'day' ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("", "search", 2), ("gpt-4o", "", 1)]
    assert await used(database_pool, owner) == (3, 4)


async def test_a_key_knows_to_the_minute_when_it_was_used(aggregator: Aggregator, database_pool: Pool) -> None:
    owner, key = await make_subscription(database_pool), uuid7()
    await database_pool.execute(
        "INSERT INTO api_keys (id, subscription_id, key_hash, key_prefix) VALUES ($1, $2, repeat('0', 64), 'ts_')",
        key,
        owner,
    )

    async def last_used(seconds: int) -> timedelta:
        use = delta(owner, api_key_id=key)
        use.last_event_at = NOON + timedelta(seconds=seconds)
        await aggregator.apply(recorded(use))
        at = await database_pool.fetchval("SELECT last_used_at FROM api_keys WHERE id = $1", key)
        return at - NOON  # type: ignore[no-any-return]

    assert [(await last_used(s)).seconds for s in (10, 40, 75, 5)] == [10, 10, 75, 75]


async def test_a_wrong_position_is_refused(aggregator: Aggregator, database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    await aggregator.next_offset()
    aggregator.handler = type(aggregator.handler)("elsewhere", aggregator.clock, aggregator.counters, aggregator.wake)
    with pytest.raises(BrokenInvariant, match="was not at 0"):
        await aggregator.apply(recorded(delta(owner)))
    assert await used(database_pool, owner) == (0, 0)


# --- side by side ----------------------------------------------------------------------------------------------------


async def test_two_aggregators_with_the_same_subscriptions_neither_deadlock_nor_lose(database_pool: Pool) -> None:
    owners = [await make_subscription(database_pool, quota_requests=400) for _ in range(40)]
    models = ["a", "b", "c"]
    chance = random.Random(7)
    workers = [Aggregator(database_pool, partition) for partition in range(3)]

    async def work(worker: Aggregator) -> None:
        for _ in range(15):
            deltas = [delta(owner, model_id=chance.choice(models), tokens=2) for owner in chance.sample(owners, 30)]
            await worker.apply(recorded(*deltas))

    async def reset_now_and_then() -> None:
        for _ in range(15):
            await workers[0].resets()

    await asyncio.gather(*(work(worker) for worker in workers), reset_now_and_then())

    total = 3 * 15 * 30
    assert await database_pool.fetchval("SELECT sum(used_requests) FROM subscriptions") == total
    assert await database_pool.fetchval("SELECT sum(used_tokens) FROM subscriptions") == 2 * total
    for period_type in ("hour", "day", "month"):
        assert (
            await database_pool.fetchval(
                "SELECT sum(request_count) FROM usage_summaries WHERE period_type = $1", period_type
            )
            == total
        )


async def test_one_message_in_two_partitions_at_once_is_applied_once(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    workers = [Aggregator(database_pool, partition) for partition in range(2)]
    messages = [recorded(delta(owner, tokens=1)) for _ in range(20)]
    await asyncio.gather(workers[0].apply(*messages), workers[1].apply(*reversed(messages)))

    assert await used(database_pool, owner) == (20, 20)
    positions = [await worker.position() for worker in workers]
    assert [sum(column) for column in zip(*positions, strict=True)] == [40, 20, 20, 0]


async def test_counters_stay_the_sum_of_their_hours_while_periods_roll_amid_usage(database_pool: Pool) -> None:
    owners = [await make_subscription(database_pool, reset_at=NOON) for _ in range(10)]
    worker, rolling = Aggregator(database_pool), Aggregator(database_pool, partition=1)
    worker.clock.at = rolling.clock.at = NOON - HOUR

    async def work() -> None:
        for i in range(30):
            hour = NOON + (i - 15) * HOUR
            worker.clock.at = rolling.clock.at = max(worker.clock.at, hour)
            await worker.apply(recorded(*(delta(owner, hour=hour, tokens=i) for owner in owners)))

    async def roll() -> None:
        for _ in range(30):
            await rolling.resets()
            await asyncio.sleep(0)

    await asyncio.gather(work(), roll())
    for owner in owners:
        assert await used(database_pool, owner) == (15, sum(range(15, 30)))


async def test_a_zombie_of_the_same_partition_finds_its_records_applied(database_pool: Pool) -> None:
    owner: UUID = await make_subscription(database_pool)
    alive, zombie = Aggregator(database_pool), Aggregator(database_pool)
    message = recorded(delta(owner))
    await alive.next_offset()
    await asyncio.gather(alive.apply(message), zombie.apply(message), return_exceptions=True)

    assert await used(database_pool, owner) == (1, 0)
    assert await database_pool.fetchval("SELECT count(*) FROM aggregator_inbox") == 1
    assert (
        await database_pool.fetchval("SELECT applied FROM aggregator_positions WHERE topic = $1", USAGE_RECORDED) == 1
    )
