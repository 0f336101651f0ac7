"""A database that went back in time: usage.recorded still tells of batches that are gone, and nobody counts them."""

from __future__ import annotations

from typing import Any

import pytest
import structlog.testing

from services.aggregator import metrics as aggregator_metrics
from shared.contracts import UsageRecorded, encode
from shared.postgres import Pool
from tests.integration.aggregator_facts import Aggregator, make_subscription, summed, used
from tests.integration.billing_facts import Desk, make_customer, make_price, usage
from tests.integration.rebuild_facts import store_batch
from tests.unit.aggregator.facts import NOON


async def lose(pool: Pool, message: UsageRecorded) -> None:
    """Take a batch away as a failover does: its rows, its place in the position, and itself."""
    await pool.execute(
        "DELETE FROM usage_ids WHERE id IN (SELECT id FROM usage_logs WHERE batch_id = $1)", message.batch_id
    )
    await pool.execute("DELETE FROM usage_logs WHERE batch_id = $1", message.batch_id)
    rows = await pool.fetchval("DELETE FROM usage_batches WHERE batch_id = $1 RETURNING inserted", message.batch_id)
    await pool.execute(
        "UPDATE ingest_positions SET next_offset = next_offset - $1, inserted = inserted - $1 WHERE partition = 0", rows
    )


async def test_what_a_lost_batch_announced_is_counted_once(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    rows = [usage(owner, at=NOON, request_tokens=7), usage(owner, at=NOON, request_tokens=5)]
    aggregator = Aggregator(database_pool)
    [kept] = await store_batch(database_pool, [usage(owner, at=NOON)])
    [lost] = await store_batch(database_pool, rows)
    await lose(database_pool, lost)  # ... before the aggregator heard of it; Kafka still has the message
    [again] = await store_batch(database_pool, rows)

    await aggregator.apply_values([encode(kept), encode(lost), encode(again), encode(kept)])

    assert await used(database_pool, owner) == (3, 12)
    assert await summed(database_pool, owner, "month") == {NOON.replace(day=1, hour=0): (3, 12)}
    row = await database_pool.fetchrow("SELECT * FROM aggregator_positions")
    assert (row["next_offset"], row["applied"], row["duplicates"], row["orphaned"], row["gaps"]) == (4, 2, 1, 1, 0)
    assert await database_pool.fetchval("SELECT count(*) FROM aggregator_inbox") == 2


async def test_a_message_of_a_lost_batch_is_counted_in_a_metric_and_named_in_the_log(database_pool: Pool) -> None:
    owner = await make_subscription(database_pool)
    [lost] = await store_batch(database_pool, [usage(owner, at=NOON)])
    await lose(database_pool, lost)
    before = aggregator_metrics.MESSAGES.labels("orphaned")._value.get()
    with structlog.testing.capture_logs() as logs:
        await Aggregator(database_pool).apply_values([encode(lost)])
    [entry] = [entry for entry in logs if entry["event"] == "messages_of_lost_batches"]
    assert (entry["log_level"], entry["batches"], entry["offsets"]) == ("error", [str(lost.batch_id)], [0, 1])
    assert aggregator_metrics.MESSAGES.labels("orphaned")._value.get() == before + 1


async def test_what_was_counted_of_a_lost_batch_goes_back_with_it_and_is_counted_anew(database_pool: Pool) -> None:
    """The replica had nothing of a batch: neither its rows nor what the aggregator made of them; the position is the older one."""
    owner = await make_subscription(database_pool)
    aggregator = Aggregator(database_pool)
    await aggregator.next_offset()
    rows = [usage(owner, at=NOON, request_tokens=7)]
    [lost] = await store_batch(database_pool, rows)
    await aggregator.apply_values([encode(lost)])
    assert await used(database_pool, owner) == (1, 7)

    await lose(database_pool, lost)
    await database_pool.execute("TRUNCATE usage_summaries, aggregator_inbox")
    await database_pool.execute("UPDATE aggregator_positions SET next_offset = 0, applied = 0")
    await database_pool.execute("UPDATE subscriptions SET used_requests = 0, used_tokens = 0")
    [again] = await store_batch(database_pool, rows)
    await aggregator.apply_values([encode(lost), encode(again)])
    assert await used(database_pool, owner) == (1, 7)


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool)
    return Desk(database_pool)


async def test_a_lost_batch_is_billed_once(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    row: Any = usage(customer.subscription_id, request_tokens=1_000)
    [lost] = await store_batch(desk.pool, [row])
    await lose(desk.pool, lost)
    [again] = await store_batch(desk.pool, [row])
    await desk.deliver(lost, again)
    assert [tuple(r) for r in await desk.fetch("SELECT requests, request_tokens FROM rated_usage")] == [(1, 1_000)]
    [position] = await desk.fetch("SELECT * FROM billing_positions")
    assert (position["next_offset"], position["applied"], position["orphaned"]) == (2, 1, 1)
