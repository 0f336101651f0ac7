"""`tallystick seed`: the same data every time, in every way of use, and nothing that anybody could log in with."""

from __future__ import annotations

import time
from dataclasses import astuple
from datetime import UTC, datetime, timedelta

import pytest

from deploy.seed import SeedError, SeedResult, seed
from deploy.seed_customers import customers
from deploy.seed_prices import models, prices
from shared.postgres import Pool

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
LARGE = "count(*) FROM subscriptions WHERE status IN ('active', 'trialing') AND "


async def test_without_test_data_there_is_reference_data_only(database: str, database_pool: Pool) -> None:
    assert await seed(database, test_data=False) == SeedResult()
    assert await database_pool.fetchval("SELECT count(*) FROM plans") == 4
    assert await database_pool.fetchval("SELECT count(*) FROM users") == 0


async def test_seeding_again_changes_nothing(database: str, database_pool: Pool) -> None:
    first = await seed(database, test_data=True, now=NOW)
    assert (first.users, first.subscriptions, first.models) == (200, 300, 6)
    before = await content(database_pool)
    assert set(astuple(await seed(database, test_data=True, now=NOW + timedelta(days=40)))) == {0}
    assert await content(database_pool) == before


async def content(pool: Pool) -> dict[str, str]:
    """Return a digest of each table that the seed fills."""
    tables = "users subscriptions api_keys models model_prices plans libraries user_credits credit_transactions credit_packages power_level_configs"
    return {
        table: await pool.fetchval(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t")  # noqa: S608
        for table in tables.split()
    }


async def test_two_seeds_live_side_by_side(database: str) -> None:
    await seed(database, test_data=True, users=5, subscriptions=8)
    other = await seed(database, test_data=True, users=5, subscriptions=8, seed=2)
    assert (other.users, other.subscriptions, other.models) == (5, 8, 0)


async def test_test_data_is_quick(database: str) -> None:
    started = time.perf_counter()
    await seed(database, test_data=True)
    assert time.perf_counter() - started < 5  # well under a second on an idle machine


async def test_every_way_of_use_is_there(database: str, database_pool: Pool) -> None:
    await seed(database, test_data=True)
    for facts in (
        "billing_mode = 'prepaid'",
        "billing_mode = 'postpaid' AND quota_requests IS NULL AND quota_tokens IS NULL",
        "quota_requests <= 500",
        "quota_tokens <= 250000",
        "plan_id = 'free'",
        "model_id IS NOT NULL AND currency = 'EUR'",
        "EXISTS (SELECT FROM user_credits c WHERE c.user_id = subscriptions.user_id AND c.balance = 0)",
        "EXISTS (SELECT FROM user_credits c WHERE c.user_id = subscriptions.user_id AND c.balance BETWEEN 0.1 AND 1)",
        "EXISTS (SELECT FROM user_credits c WHERE c.user_id = subscriptions.user_id AND c.balance >= 1000)",
    ):
        assert await database_pool.fetchval(f"SELECT {LARGE} {facts}") >= 3, facts
    statuses = await database_pool.fetchval("SELECT array_agg(DISTINCT status::text) FROM subscriptions")
    assert set(statuses) == {"active", "trialing", "paused", "pending", "cancelled", "expired"}


async def test_nobody_can_log_in_with_what_is_seeded(database: str, database_pool: Pool) -> None:
    await seed(database, test_data=True)
    assert await database_pool.fetchval("SELECT count(password_hash) FROM users") == 0
    hashes = {row["key_hash"] for row in await database_pool.fetch("SELECT key_hash FROM api_keys")}
    await database_pool.execute("DELETE FROM api_keys")
    await seed(database, test_data=True)
    again = {row["key_hash"] for row in await database_pool.fetch("SELECT key_hash FROM api_keys")}
    assert len(hashes) == len(again) == 330
    assert not hashes & again, "keys are drawn anew, so none follows from the source"


async def test_every_subscription_can_be_rated_in_its_currency(database: str, database_pool: Pool) -> None:
    await seed(database, test_data=True, now=NOW)
    unpriced = await database_pool.fetch(
        """SELECT DISTINCT s.currency, m.id FROM subscriptions s CROSS JOIN models m CROSS JOIN unnest($1::timestamptz[]) hour
           WHERE NOT EXISTS (SELECT FROM model_prices p WHERE p.model_id = m.id AND p.currency = s.currency
                             AND p.valid_from <= hour AND (p.valid_to IS NULL OR hour < p.valid_to))""",
        [NOW - timedelta(days=days) for days in range(60)],
    )
    assert unpriced == []


async def test_numbers_that_do_not_fit_are_explained(database: str) -> None:
    with pytest.raises(SeedError, match="2 users can have at most 20 subscriptions, not 21"):
        await seed(database, test_data=True, users=2, subscriptions=21)


async def test_a_database_without_a_schema_is_explained(empty_database: str) -> None:
    with pytest.raises(SeedError, match="run 'tallystick migrate' first"):
        await seed(empty_database, test_data=True)


def test_customers_follow_from_the_seed_alone() -> None:
    assert customers(1, 20, 30, NOW) == customers(1, 20, 30, NOW)
    assert customers(1, 20, 30, NOW) != customers(2, 20, 30, NOW)
    assert len(customers(1, 2, 20, NOW).subscriptions) == 20


def test_sale_prices_are_above_cost_and_exact() -> None:
    for price in prices(NOW):
        assert price.input >= price.cost_input
        assert price.request >= price.cost_request
    assert str(models()[1].input_price) == "0.00018"
