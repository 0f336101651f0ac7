"""Reconciliation holds for a sound system, and each statement fails when one of its sides is corrupted by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.billing.reconciliation import Check, reconcile
from services.billing.reconciliation.statements import STATEMENTS
from services.ingest.rows import UsageRow
from shared.postgres import Connection, Pool
from tests.integration.billing_facts import NOON, Customer, Desk, ingest, make_customer, make_price, usage


@pytest.fixture
async def sound(database_pool: Pool) -> Pool:
    """A database in which usage went through the whole pipeline: settled, owed, invoiced, held, and not billed yet."""
    desk = Desk(database_pool)
    await make_price(database_pool)
    await make_price(database_pool, model=None, tool="query-docs", per_1k=("0", "0", "0"), per_request="0.01")
    customer = await make_customer(database_pool)
    prepaying = await make_customer(database_pool, billing_mode="prepaid")
    await database_pool.execute("SELECT add_user_credits($1, 0.001)", prepaying.user_id)
    await desk.use(*some_usage(customer), usage(prepaying.subscription_id, request_tokens=1000))
    await desk.use(*some_usage(customer))
    await desk.settling.settle_all()
    await desk.close()
    await desk.use(usage(customer.subscription_id, request_tokens=5), usage(customer.subscription_id, model="unpriced"))
    return database_pool


def some_usage(customer: Customer) -> list[UsageRow]:
    return [
        usage(customer.subscription_id, request_tokens=100_000, cached_tokens=20, response_tokens=7),
        usage(customer.subscription_id, at=NOON + timedelta(days=1), request_tokens=11, status_code=500),
        usage(customer.subscription_id, at=NOON + timedelta(days=10), model=None, tool_name="query-docs"),
    ]


async def failing(connection: Connection) -> dict[str, Check]:
    return {check.name: check for check in await reconcile(connection) if not check.holds}


async def test_a_sound_system_reconciles(sound: Pool) -> None:
    async with sound.acquire() as connection:
        checks = await reconcile(connection)
    assert [check.name for check in checks if not check.holds] == []
    by_name = {check.name: check for check in checks}
    assert by_name["batches = log: rows"].left == 9
    assert by_name["log = hours: request tokens"].right == 201_027
    assert by_name["rated = billed: USD"].left == by_name["rated = billed: USD"].right > 0
    assert by_name["numbers are gapless: numbers"].left == 1


async def test_messages_on_their_way_disturb_only_the_eventual_checks(sound: Pool) -> None:
    async with sound.acquire() as connection:
        customer = await make_customer(connection)
        await ingest(connection, [usage(customer.subscription_id)])
        found = await failing(connection)
    assert set(found) == {"batches = billing inbox: messages", "batches = billing inbox: rows"}
    assert all(check.eventual for check in found.values())


async def test_an_empty_system_reconciles_and_lists_every_statement(database_pool: Pool) -> None:
    async with database_pool.acquire() as connection:
        checks = await reconcile(connection)
    assert all(check.holds for check in checks)
    assert len({check.statement for check in checks}) == len(STATEMENTS)


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
    "an identity was lost": (
        "DELETE FROM usage_ids WHERE id = (SELECT min(id::text)::uuid FROM usage_logs)",
        {"log = identities: rows"},
    ),
    "an identity is guarded at another time": (
        "UPDATE usage_ids SET created_at = created_at + interval '1 second' WHERE id = (SELECT min(id::text)::uuid FROM usage_logs)",
        {"log = identities: rows"},
    ),
    "the log's tokens changed": (
        "UPDATE usage_logs SET response_tokens = response_tokens + 1 WHERE model_id IS NULL",
        {"log = hours: response tokens"},
    ),
    "two errors that cancel out": (
        """UPDATE usage_summaries SET request_tokens = request_tokens + CASE WHEN model_id = '' THEN 5 ELSE -5 END
           WHERE period_type = 'hour' AND model_id IN ('', 'gpt-4o') AND request_tokens IN (0, 22)""",
        {
            "log = hours: request tokens", "hours = days: request tokens", "hours = months: request tokens", "hours = uses: request tokens",
        },
    ),
    "an hour summary lost an error": (
        "UPDATE usage_summaries SET error_count = 0 WHERE period_type = 'hour'",
        {"log = hours: errors", "hours = days: errors", "hours = months: errors", "hours = uses: errors"},
    ),
    "an hour of a use grew": (
        "UPDATE usage_hours SET cached_tokens = cached_tokens + 1 WHERE model_id = ''",
        {"hours = uses: cached tokens"},
    ),
    "an hour of a use vanished": (
        "DELETE FROM usage_hours WHERE model_id = '' AND kind = (SELECT min(kind::text)::uuid FROM usage_hours WHERE model_id = '')",
        {"hours = uses: requests"},
    ),
    "what failed is kept as what did not": (
        "UPDATE usage_hours SET failed = NOT failed",
        {"hours = uses: errors"},
    ),
    "a day summary grew": (
        "UPDATE usage_summaries SET cached_tokens = cached_tokens + 1 WHERE period_type = 'day'",
        {"hours = days: cached tokens"},
    ),
    "a month summary vanished": (
        "DELETE FROM usage_summaries WHERE period_type = 'month' AND model_id = ''",
        {"hours = months: requests"},
    ),
    "what everybody used drifted": (
        "UPDATE usage_totals SET error_count = error_count + 1 WHERE period_type = 'hour'",
        {"summaries = totals: errors"},
    ),
    "a quota counter drifted": (
        "UPDATE subscriptions SET used_tokens = used_tokens + 1",
        {"hours = counters: tokens"},
    ),
    "a batch counts more than it stored": (
        "UPDATE usage_batches SET inserted = inserted + 1, duplicates = 0, next_offset = next_offset + 1 WHERE first_offset = 4",
        {
            "positions = batches: offsets", "positions = batches: inserted", "batches touch: edges", "batches = log: rows",
            "batches = aggregator inbox: rows",
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
    "billing missed a message": (
        "DELETE FROM billing_inbox WHERE batch_id = (SELECT batch_id FROM usage_batches WHERE first_offset = 0)",
        {"batches = billing inbox: messages", "batches = billing inbox: rows", "log = rated: requests"},
    ),
    "rated usage vanished": (
        "ALTER TABLE rated_usage DISABLE TRIGGER USER; DELETE FROM rated_usage WHERE invoice_line_id IS NOT NULL",
        {"log = rated: requests", "log = rated: request tokens", "rated = billed: USD", "lines = provenance: events"},
    ),
    "usage was rated twice": (
        """INSERT INTO rated_usage (subscription_id, hour, model_id, rating_run_id, user_id, billing_mode, requests, request_tokens,
                                    price_id, multiplier, currency, amount)
           SELECT subscription_id, hour, model_id, gen_random_uuid(), user_id, billing_mode, requests, request_tokens,
                  price_id, multiplier, currency, amount FROM rated_usage WHERE amount > 0 AND request_tokens > 0 LIMIT 1""",
        {"log = rated: requests", "log = rated: request tokens"},
    ),
    "an invoiced amount changed": (
        "ALTER TABLE rated_usage DISABLE TRIGGER USER; UPDATE rated_usage SET amount = amount + 0.000001 WHERE invoice_line_id IS NOT NULL",
        {"rated = billed: USD", "lines = provenance: events"},
    ),
    "a settled amount changed": (
        "ALTER TABLE rated_usage DISABLE TRIGGER USER; UPDATE rated_usage SET amount = amount / 2 WHERE settlement_id IS NOT NULL",
        {"rated = billed: USD"},
    ),
    "rated usage was moved from one line to another": (
        """ALTER TABLE rated_usage DISABLE TRIGGER USER;
           UPDATE rated_usage SET invoice_line_id = (SELECT usage_line_id FROM invoice_lines WHERE component = 'requests' LIMIT 1)
           WHERE model_id = 'gpt-4o' AND status_class = 5 AND invoice_line_id IS NOT NULL""",
        {"lines = provenance: events"},
    ),
    "the quantity behind a line changed": (
        """ALTER TABLE rated_usage DISABLE TRIGGER USER;
           UPDATE rated_usage SET requests = requests + 1 WHERE tool_name <> '' AND invoice_line_id IS NOT NULL""",
        {"log = rated: requests", "lines = provenance: events"},
    ),
    "a settlement was lost": (
        "ALTER TABLE credit_settlements DISABLE TRIGGER USER; DELETE FROM credit_settlements",
        {"rated = billed: USD", "settlements = ledger: debited", "settlements = ledger: owed"},
    ),
    "a ledger entry of a settlement changed": (
        """ALTER TABLE credit_transactions DISABLE TRIGGER USER; ALTER TABLE credit_transactions DROP CONSTRAINT balance_adds_up;
           UPDATE credit_transactions SET amount = amount - 1 WHERE transaction_type = 'usage'""",
        {"settlements = ledger: debited", "ledger = accounts: balance", "ledger is chained: entries"},
    ),
    "a balance was changed beside the ledger": (
        "ALTER TABLE user_credits DISABLE TRIGGER USER; UPDATE user_credits SET balance = balance + 5",
        {"ledger = accounts: balance"},
    ),
    "a debt was forgotten": (
        "ALTER TABLE user_credits DISABLE TRIGGER USER; UPDATE user_credits SET owed = 0",
        {"ledger = accounts: owed"},
    ),
    "a ledger entry is missing": (
        """ALTER TABLE credit_transactions DISABLE TRIGGER USER; ALTER TABLE credit_transactions DROP CONSTRAINT balance_is_chained;
           ALTER TABLE credit_grants DROP CONSTRAINT credit_grants_transaction_id_fkey;
           ALTER TABLE credit_grant_postings DROP CONSTRAINT credit_grant_postings_transaction_id_fkey;
           DELETE FROM credit_transactions WHERE sequence = 1""",
        {"ledger = accounts: balance", "ledger is chained: entries", "postings = ledger: credits"},
    ),
    "a grant says more than it has": (
        "ALTER TABLE credit_grants DISABLE TRIGGER USER; UPDATE credit_grants SET remaining = remaining + 5, amount = amount + 5",
        {"grants = accounts: credits", "postings = grants: credits"},
    ),
    "what a grant paid was changed": (
        "ALTER TABLE credit_grant_postings DISABLE TRIGGER USER; UPDATE credit_grant_postings SET amount = amount - 1 WHERE amount < 0",
        {"postings = ledger: credits", "postings = grants: credits"},
    ),
    "money was taken from a grant without an invoice": (
        """INSERT INTO credits (user_id, amount, remaining, currency, reason, type)
           SELECT user_id, 10, 4, 'USD', 'gift', 'promotional' FROM user_credits LIMIT 1""",
        {"applied = grants in money: USD"},
    ),
    "an invoice line changed after it was issued": (
        "ALTER TABLE invoice_lines DISABLE TRIGGER USER; UPDATE invoice_lines SET amount = amount + 0.01 WHERE exact_amount > amount",
        {"invoices = lines: USD"},
    ),
    "an item is not what its line says": (
        "ALTER TABLE invoices DISABLE TRIGGER USER; UPDATE invoices SET items = jsonb_set(items, '{0,amount}', '9')",
        {"invoices = lines: USD"},
    ),
    "an invoice vanished": (
        """ALTER TABLE invoice_lines DISABLE TRIGGER USER; ALTER TABLE invoices DISABLE TRIGGER USER;
           DELETE FROM invoice_lines; DELETE FROM invoices""",
        {"numbers are gapless: numbers", "rated = billed: USD", "lines = provenance: events"},
    ),
    "a number was taken by nobody": (
        "UPDATE invoice_numbers SET next = next + 1",
        {"numbers are gapless: numbers"},
    ),
    "the aggregator missed a message": (
        "DELETE FROM aggregator_inbox WHERE batch_id = (SELECT batch_id FROM usage_batches WHERE first_offset = 0)",
        {"batches = aggregator inbox: messages", "batches = aggregator inbox: rows"},
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
