"""Changes of prices: in force at once for everybody, and for usage of the past too when a price turns out to have been wrong."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from shared.postgres import Pool, transaction
from tests.integration.billing_facts import Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    return Desk(database_pool)


async def test_a_price_is_in_force_for_the_next_message_without_a_wait(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    price = await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    await desk.pool.execute(
        """INSERT INTO model_prices (model_id, valid_from, currency, input_price_per_1k, revision)
           SELECT model_id, valid_from, currency, 3, 1 FROM model_prices WHERE id = $1""",
        price,
    )
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    assert [r["amount"] for r in await desk.fetch("SELECT amount FROM rated_usage ORDER BY rated_at")] == [1, 3]


async def test_a_change_of_prices_waits_for_usage_that_is_being_rated_by_the_old_ones(desk: Desk) -> None:
    """Else a reprice that follows the change could look for what the old price rated before all of it is there."""
    await make_price(desk.pool)  # turn_price_book is the trigger that the change waits in
    before = await desk.value("SELECT version FROM price_book")
    async with transaction(desk.billing) as rating:
        await desk.prices.read(rating)
        change = asyncio.ensure_future(desk.pool.execute("UPDATE power_level_configs SET cost_multiplier = 2"))
        while not await desk.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not change.done()
    await change
    assert await desk.value("SELECT version FROM price_book") == before + 1
    async with transaction(desk.billing) as rating:
        book = await desk.prices.read(rating)
    assert book.factors.power_levels["eco"] == Decimal(2)
