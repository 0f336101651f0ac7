"""Rating on a real database: each message once, the price of the hour, and what has no price waits for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from services.billing.rating.held import rate_held
from shared.consumer import Slice
from shared.contracts import UsageRecorded
from shared.errors import BrokenInvariant
from shared.positions import Position
from shared.postgres import Pool
from tests.integration.billing_facts import NOON, Desk, ingest, make_customer, make_price, record, usage


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    return Desk(database_pool)


async def test_usage_is_rated_with_its_price_and_factor_frozen(desk: Desk) -> None:
    customer, price = await make_customer(desk.pool), await make_price(desk.pool)
    sub = customer.subscription_id
    await desk.use(
        usage(sub, request_tokens=1000, cached_tokens=400, response_tokens=100),
        usage(sub, request_tokens=1000, cached_tokens=400, response_tokens=100),
        usage(sub, request_tokens=1000, power_level="eco"),
    )
    rows = await desk.fetch("SELECT * FROM rated_usage ORDER BY power_level")
    assert [(r["power_level"], r["requests"], r["amount"], r["multiplier"]) for r in rows] == [
        ("balanced", 2, Decimal("0.006"), Decimal("1.0")),
        ("eco", 1, Decimal("0.00175"), Decimal("0.7")),
    ]
    assert {r["price_id"] for r in rows} == {price}
    assert {r["user_id"] for r in rows} == {customer.user_id}
    assert {r["currency"] for r in rows} == {"USD"}
    assert await desk.differing() == []


async def test_a_message_that_comes_twice_is_rated_once(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool)
    message = await desk.use(usage(customer.subscription_id, request_tokens=1000))
    await desk.deliver(message, message)
    assert await desk.value("SELECT sum(requests) FROM rated_usage") == 1
    position = (await desk.fetch("SELECT * FROM billing_positions"))[0]
    assert (position["next_offset"], position["applied"], position["duplicates"]) == (3, 1, 2)
    assert await desk.differing() == []


async def test_the_same_message_twice_in_one_slice_is_rated_once(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool)
    message = await desk.use(usage(customer.subscription_id))
    fresh = UsageRecorded(**{f: getattr(message, f) for f in message.__struct_fields__ if f != "part"}, part=1)
    await desk.deliver(fresh, fresh)
    assert await desk.value("SELECT sum(requests) FROM rated_usage") == 2


async def test_several_messages_of_a_slice_are_one_run(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool)
    async with desk.pool.acquire() as connection:
        messages = [await ingest(connection, [usage(customer.subscription_id, request_tokens=10)]) for _ in range(3)]
    await desk.deliver(*messages)
    assert await desk.fetch("SELECT requests, request_tokens FROM rated_usage") == [(3, 30)]
    assert await desk.value("SELECT count(DISTINCT rating_run_id) FROM billing_inbox") == 1
    assert await desk.differing() == []


async def test_a_price_change_within_a_month_applies_from_its_hour_on(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, valid_to=NOON, per_1k=("1", "1", "1"))
    await make_price(desk.pool, valid_from=NOON, per_1k=("2", "2", "2"))
    sub = customer.subscription_id
    await desk.use(
        usage(sub, at=NOON - timedelta(microseconds=1), request_tokens=1000), usage(sub, at=NOON, request_tokens=1000)
    )
    assert [r["amount"] for r in await desk.fetch("SELECT amount FROM rated_usage ORDER BY hour")] == [1, 2]


async def test_a_price_that_was_closed_meanwhile_is_not_used(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    old = await make_price(desk.pool, per_1k=("1", "1", "1"))
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    await desk.pool.execute("UPDATE model_prices SET valid_to = $2 WHERE id = $1", old, NOON + timedelta(hours=1))
    await make_price(desk.pool, valid_from=NOON + timedelta(hours=1), per_1k=("3", "3", "3"))
    await desk.use(usage(customer.subscription_id, at=NOON + timedelta(hours=1), request_tokens=1000))
    assert [r["amount"] for r in await desk.fetch("SELECT amount FROM rated_usage ORDER BY hour")] == [1, 3]


async def test_usage_without_a_price_is_held_then_rated_when_there_is_one(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=1000))
    held = (await desk.fetch("SELECT amount, price_id, settlement_id, invoice_line_id FROM rated_usage"))[0]
    assert tuple(held) == (None, None, None, None)
    assert await rate_held(desk.pool, desk.prices) == 0
    assert (await desk.close()).invoices == []

    price = await make_price(desk.pool)
    assert await rate_held(desk.pool, desk.prices) == 1
    assert await desk.fetch("SELECT amount, price_id FROM rated_usage") == [(Decimal("0.0025"), price)]
    assert await rate_held(desk.pool, desk.prices) == 0
    assert await desk.differing() == []


async def test_usage_in_a_currency_without_a_price_is_held(desk: Desk) -> None:
    customer = await make_customer(desk.pool, currency="EUR")
    await make_price(desk.pool, currency="USD")
    await desk.use(usage(customer.subscription_id))
    assert await desk.value("SELECT count(*) FROM rated_usage WHERE amount IS NULL") == 1


async def test_an_unknown_power_level_is_held_although_there_is_a_price(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool)
    await desk.use(usage(customer.subscription_id, power_level="turbo"))
    assert await rate_held(desk.pool, desk.prices) == 0
    assert await desk.value("SELECT count(*) FROM rated_usage WHERE amount IS NULL") == 1


async def test_a_tool_call_is_rated_by_request(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, model=None, tool="query-docs", per_1k=("0", "0", "0"), per_request="0.003")
    calls = [usage(customer.subscription_id, model=None, tool_name="query-docs") for _ in range(3)]
    await desk.use(*calls)
    assert await desk.value("SELECT amount FROM rated_usage") == Decimal("0.009")


async def test_a_failed_slice_leaves_nothing_behind(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    async with desk.pool.acquire() as connection:
        message = await ingest(connection, [usage(customer.subscription_id)])
    await desk.pool.execute("ALTER TABLE rated_usage ADD CONSTRAINT broken CHECK (false) NOT VALID")
    with pytest.raises(asyncpg.CheckViolationError):
        await desk.deliver(message)
    assert await desk.value("SELECT count(*) FROM billing_inbox") == 0
    await desk.pool.execute("ALTER TABLE rated_usage DROP CONSTRAINT broken")
    await desk.deliver(message)
    assert await desk.value("SELECT sum(requests) FROM rated_usage") == 1


async def test_an_unreadable_message_stops_the_partition(desk: Desk) -> None:
    broken = record(0, None)  # type: ignore[arg-type]
    at = Position("usage.recorded", 0, 0, 0, 0)
    async with desk.pool.acquire() as connection:
        with pytest.raises(BrokenInvariant, match=r"offset 0 is not a usage\.recorded message"):
            await desk.rate(connection, Slice(at, [broken]))


async def test_usage_of_a_subscription_that_does_not_exist_stops_the_partition(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    async with desk.pool.acquire() as connection:
        message = await ingest(connection, [usage(customer.subscription_id)])
    message.deltas[0].subscription_id = customer.user_id
    with pytest.raises(BrokenInvariant, match="restore it"):
        await desk.deliver(message)


async def test_cost_is_kept_beside_the_sale_price(desk: Desk) -> None:
    customer, price = await make_customer(desk.pool), await make_price(desk.pool, valid_to=NOON + timedelta(days=1))
    assert price
    await desk.pool.execute(
        """INSERT INTO model_prices (model_id, valid_from, currency, input_price_per_1k, output_price_per_1k, cost_input_price_per_1k)
           VALUES ('gpt-4o', $1, 'USD', 2, 4, 1.5)""",
        NOON + timedelta(days=1),
    )
    at = datetime(2026, 10, 20, tzinfo=UTC)
    await desk.use(
        usage(customer.subscription_id, at=at, request_tokens=1000),
        usage(customer.subscription_id, at=at, request_tokens=1000, byok=True),
        usage(customer.subscription_id, request_tokens=1000),
    )
    rows = await desk.fetch("SELECT byok, amount, cost_amount FROM rated_usage ORDER BY hour DESC, byok")
    assert rows == [(False, 2, Decimal("1.5")), (True, 0, 0), (False, Decimal("0.0025"), None)]
