"""Reconciliation holds for a sound system, and each statement fails when one of its sides is corrupted by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.billing.reconciliation import Check, reconcile
from shared.postgres import Connection, Pool
from tests.integration.billing_facts import NOON, Customer, ingest, make_customer, usage


@pytest.fixture
async def sound(database_pool: Pool) -> Pool:
    """A database in which two batches of usage went through the whole pipeline."""
    async with database_pool.acquire() as connection:
        customer = await make_customer(connection)
        await ingest(connection, some_usage(customer))
        await ingest(connection, some_usage(customer))
    return database_pool


def some_usage(customer: Customer) -> list:  # type: ignore[type-arg]
    return [
        usage(customer.subscription_id, request_tokens=100, cached_tokens=20, response_tokens=7),
        usage(customer.subscription_id, at=NOON + timedelta(days=1), request_tokens=11, status_code=500),
        usage(customer.subscription_id, at=NOON + timedelta(days=20), model=None, tool_name="query-docs"),
    ]


async def failing(connection: Connection) -> dict[str, Check]:
    return {check.name: check for check in await reconcile(connection) if not check.holds}


async def test_a_sound_system_reconciles(sound: Pool) -> None:
    async with sound.acquire() as connection:
        checks = await reconcile(connection)
    assert [check.name for check in checks if not check.holds] == []
    by_name = {check.name: check for check in checks}
    assert by_name["batches = log: rows"].left == 6
    assert by_name["log = hours: request tokens"].right == 222


async def test_an_empty_system_reconciles_and_lists_every_statement(database_pool: Pool) -> None:
    async with database_pool.acquire() as connection:
        checks = await reconcile(connection)
    assert all(check.holds for check in checks)
    assert len({check.statement for check in checks}) >= 13


CORRUPTIONS = {
    "a row of the log vanished": (
        "DELETE FROM usage_logs WHERE id = (SELECT min(id::text)::uuid FROM usage_logs)",
        {"batches = log: rows", "log = hours: requests"},
    ),
    "a row of the log was counted twice": (
        """INSERT INTO usage_logs (created_at, id, subscription_id, batch_id, model_id, source, request_id)
           SELECT created_at, gen_random_uuid(), subscription_id, batch_id, 'gpt-4o', source, 'again' FROM usage_logs LIMIT 1""",
        {"batches = log: rows", "log = hours: requests"},
    ),
    "the log's tokens changed": (
        "UPDATE usage_logs SET response_tokens = response_tokens + 1 WHERE model_id IS NULL",
        {"log = hours: response tokens"},
    ),
    "two errors that cancel out": (
        """UPDATE usage_summaries SET request_tokens = request_tokens + CASE WHEN model_id = '' THEN 5 ELSE -5 END
           WHERE period_type = 'hour' AND request_tokens IN (0, 22)""",
        {"log = hours: request tokens", "hours = days: request tokens", "hours = months: request tokens"},
    ),
    "an hour summary lost an error": (
        "UPDATE usage_summaries SET error_count = 0 WHERE period_type = 'hour'",
        {"log = hours: errors", "hours = days: errors", "hours = months: errors"},
    ),
    "a day summary grew": (
        "UPDATE usage_summaries SET cached_tokens = cached_tokens + 1 WHERE period_type = 'day'",
        {"hours = days: cached tokens"},
    ),
    "a month summary vanished": (
        "DELETE FROM usage_summaries WHERE period_type = 'month' AND model_id = ''",
        {"hours = months: requests"},
    ),
    "a quota counter drifted": (
        "UPDATE subscriptions SET used_tokens = used_tokens + 1",
        {"hours = counters: tokens"},
    ),
    "a batch counts more than it stored": (
        "UPDATE usage_batches SET inserted = inserted + 1, duplicates = 0, next_offset = next_offset + 1 WHERE first_offset = 3",
        {
            "positions = batches: offsets", "positions = batches: inserted", "batches touch: edges", "batches = log: rows",
            "batches = aggregator inbox: events",
        },
    ),
    "a batch of offsets is missing": (
        "DELETE FROM usage_batches WHERE first_offset = 0",
        {"positions = batches: inserted", "batches touch: edges", "batches = log: rows", "batches = aggregator inbox: messages"},
    ),
    "a position claims more than its batches": (
        "UPDATE ingest_positions SET next_offset = next_offset + 2, gaps = gaps + 2",
        {"positions = batches: offsets", "positions = batches: gaps", "batches touch: edges"},
    ),
    "a position does not add up": (
        """ALTER TABLE ingest_positions DROP CONSTRAINT every_offset_accounted;
           UPDATE ingest_positions SET duplicates = duplicates + 1""",
        {"offsets accounted: offsets", "positions = batches: duplicates"},
    ),
    "a quarantined record was lost": (
        """ALTER TABLE usage_batches DROP CONSTRAINT every_offset_accounted;
           UPDATE usage_batches SET quarantined = 1 WHERE first_offset = 0""",
        {"positions = batches: quarantined", "batches = quarantine: records"},
    ),
    "a held event was lost": (
        """ALTER TABLE usage_batches DROP CONSTRAINT every_offset_accounted;
           UPDATE usage_batches SET held = 1 WHERE first_offset = 0""",
        {"positions = batches: held", "batches = held: events"},
    ),
    "a held event was attributed but never stored": (
        """INSERT INTO held_events (id, reason, subscription_id, occurred_at, cluster, topic, partition, epoch, record_offset,
                                    record_value, batch_id, attributed_at, attributed_batch_id)
           SELECT gen_random_uuid(), 'unknown_subscription', gen_random_uuid(), now(), 'main', 'usage.events', 0, 0, 0,
                  '', batch_id, now(), gen_random_uuid() FROM usage_batches WHERE first_offset = 0""",
        {"batches = held: events", "attributed = batches: events"},
    ),
    "a subscription of the log does not exist": (
        "UPDATE usage_logs SET subscription_id = gen_random_uuid() WHERE model_id IS NULL",
        {"log has subscriptions: subscriptions", "log = hours: requests"},
    ),
    "the aggregator missed a message": (
        "DELETE FROM aggregator_inbox WHERE batch_id = (SELECT batch_id FROM usage_batches WHERE first_offset = 0)",
        {"batches = aggregator inbox: messages", "batches = aggregator inbox: events"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corrupted_side_is_found(sound: Pool, corruption: str) -> None:
    sql, expected = CORRUPTIONS[corruption]
    async with sound.acquire() as connection:
        await connection.execute(sql)
        found = await failing(connection)
    assert expected <= set(found)
    assert all(found[name].differing for name in expected)
