"""Prepaid usage: one ledger entry per user and window, whatever runs beside it; what the balance lacks is owed and suspends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from shared.postgres import Pool
from tests.integration.billing_facts import (
    NOON,
    Customer,
    Desk,
    add_subscription,
    ingest,
    make_customer,
    make_price,
    summarise,
    usage,
)
from tests.integration.rebuild_facts import take_back

ONE_DOLLAR = 1000
"""Tokens that cost a dollar, ten credits, by the price of these tests."""


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("1", "1", "1"))
    return Desk(database_pool)


async def prepaid(desk: Desk, *, credit: int = 0, low: int | None = None) -> Customer:
    customer = await make_customer(desk.pool, billing_mode="prepaid")
    if credit:
        await top_up(desk, customer.user_id, credit)
    if low is not None:
        await desk.pool.execute(
            "UPDATE user_credits SET low_balance_threshold = $2 WHERE user_id = $1", customer.user_id, low
        )
    return customer


async def top_up(desk: Desk, user_id: UUID, credit: int) -> None:
    await desk.pool.execute("SELECT add_user_credits($1, $2)", user_id, Decimal(credit))


async def set_rate(pool: Pool, currency: str, at: datetime, credits_per_unit: str) -> None:
    await pool.execute(
        "INSERT INTO credit_rates (currency, valid_from, credits_per_unit) VALUES ($1, $2, $3)",
        currency,
        at,
        Decimal(credits_per_unit),
    )


async def account(desk: Desk) -> tuple[Any, Any]:
    row = (await desk.fetch("SELECT balance, owed FROM user_credits"))[0]
    return row["balance"], row["owed"]


async def events(desk: Desk) -> list[dict[str, Any]]:
    rows = await desk.fetch("SELECT value FROM billing_outbox WHERE topic = 'billing.events' ORDER BY id")
    return [msgspec.json.decode(row["value"]) for row in rows]


async def test_a_window_of_usage_is_one_ledger_entry_tied_to_its_usage(desk: Desk) -> None:
    customer = await prepaid(desk, credit=100)
    for _ in range(3):
        await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR))
    assert await desk.settling.settle_all() == 1
    assert await account(desk) == (70, 0)
    assert await desk.value("SELECT count(*) FROM credit_transactions WHERE transaction_type = 'usage'") == 1
    settlement = (await desk.fetch("SELECT * FROM credit_settlements"))[0]
    assert (settlement["rated_amount"], settlement["amount"], settlement["debited"]) == (3, 30, 30)
    assert await desk.value("SELECT count(*) FROM rated_usage WHERE settlement_id = $1", settlement["id"]) == 3
    assert await desk.settling.settle_all() == 0
    assert await desk.differing() == []


async def test_all_subscriptions_of_a_user_are_settled_together(desk: Desk) -> None:
    customer, second = await prepaid(desk, credit=100), UUID(int=5)
    await add_subscription(desk.pool, customer.user_id, second, billing_mode="prepaid")
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR), usage(second, request_tokens=ONE_DOLLAR))
    assert await desk.settling.settle_all() == 1
    assert await account(desk) == (80, 0)


async def test_currencies_never_mix_in_one_settlement(desk: Desk) -> None:
    customer, second = await prepaid(desk, credit=100), UUID(int=5)
    await make_price(desk.pool, currency="EUR", per_1k=("2", "2", "2"))
    await add_subscription(desk.pool, customer.user_id, second, billing_mode="prepaid", currency="EUR")
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR), usage(second, request_tokens=ONE_DOLLAR))
    assert await desk.settling.settle_all() == 2
    assert await account(desk) == (70, 0)
    assert await desk.differing() == []


async def test_two_workers_at_once_settle_usage_once(desk: Desk) -> None:
    customers = [await prepaid(desk, credit=100) for _ in range(5)]
    rivals = [Desk(desk.pool) for _ in range(4)]
    for _ in range(4):
        await desk.use(*(usage(c.subscription_id, request_tokens=100) for c in customers))
        await asyncio.gather(*(rival.settling.settle_all() for rival in rivals))
    balances = await desk.fetch("SELECT balance FROM user_credits")
    assert [row["balance"] for row in balances] == [96] * 5
    assert await desk.differing() == []


async def test_settling_while_usage_is_rated_loses_nothing(desk: Desk) -> None:
    customer = await prepaid(desk, credit=1000)
    async with desk.pool.acquire() as connection:
        messages = [await ingest(connection, [usage(customer.subscription_id, request_tokens=100)]) for _ in range(12)]

    async def rate() -> None:
        for message in messages:
            await desk.deliver(message)

    async def settle() -> None:
        for _ in range(12):
            await desk.settling.settle_all()

    await asyncio.gather(rate(), settle(), settle())
    await desk.settling.settle_all()
    assert await account(desk) == (1000 - 12, 0)
    assert await desk.differing() == []


async def test_what_the_balance_does_not_cover_is_owed_and_suspends_then_a_top_up_pays_it_and_reactivates(
    desk: Desk,
) -> None:
    customer = await prepaid(desk, credit=15)
    await desk.use(usage(customer.subscription_id, request_tokens=2 * ONE_DOLLAR))
    await desk.settling.settle_all()
    assert await account(desk) == (0, 5)
    state = "SELECT status::text, suspended_reasons FROM subscriptions"
    assert await desk.fetch(state) == [("suspended", ["credits_exhausted"])]
    assert await desk.value("SELECT actor FROM audit_logs WHERE action = 'subscription.suspended'") == "billing"
    assert await desk.differing() == []

    await top_up(desk, customer.user_id, 20)
    assert await account(desk) == (15, 0)
    assert await desk.fetch(state) == [("active", [])]
    assert await desk.differing() == []


async def test_exhaustion_is_told_once(desk: Desk) -> None:
    customer = await prepaid(desk, credit=10)
    for _ in range(3):
        await desk.use(usage(customer.subscription_id, request_tokens=2 * ONE_DOLLAR))
        await desk.settling.settle_all()
    assert await account(desk) == (0, 50)
    told = await events(desk)
    assert [(e["type"], e["subject"]) for e in told] == [("tallystick.credits.exhausted.v1", str(customer.user_id))]
    assert told[0]["data"]["owed"] == "10"
    assert await desk.fetch("SELECT type, user_id FROM billing_alerts") == [("credits_exhausted", customer.user_id)]


async def test_a_low_balance_is_told_when_the_threshold_is_crossed(desk: Desk) -> None:
    customer = await prepaid(desk, credit=100, low=75)
    for _ in range(3):
        await desk.use(usage(customer.subscription_id, request_tokens=2 * ONE_DOLLAR))
        await desk.settling.settle_all()
    assert [(e["type"], e["data"]["balance"], e["data"]["threshold"]) for e in await events(desk)] == [
        ("tallystick.credits.low.v1", "60", "75")
    ]


async def test_a_user_who_never_had_credits_owes_and_is_suspended(desk: Desk) -> None:
    customer = await prepaid(desk)
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR))
    await desk.settling.settle_all()
    assert await account(desk) == (0, 10)
    assert await desk.value("SELECT status::text FROM subscriptions") == "suspended"


async def test_usage_that_costs_nothing_is_settled_without_a_ledger_entry(desk: Desk) -> None:
    customer = await prepaid(desk, credit=10)
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR, byok=True))
    assert await desk.settling.settle_all() == 1
    assert await desk.value("SELECT transaction_id FROM credit_settlements") is None
    assert await account(desk) == (10, 0)
    assert await desk.differing() == []


async def test_voided_usage_gives_its_credits_back_at_the_rate_at_which_they_were_taken(desk: Desk) -> None:
    customer = await prepaid(desk, credit=25)
    used = await desk.use(usage(customer.subscription_id, request_tokens=2 * ONE_DOLLAR))
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR))
    await desk.settling.settle_all()
    assert await account(desk) == (0, 5)
    await set_rate(desk.pool, "USD", datetime(2036, 1, 1, tzinfo=UTC), "99")
    await desk.deliver(*await take_back(desk.pool, [used]))
    assert await desk.settling.settle_all() == 1
    assert await account(desk) == (15, 0)
    row = (
        await desk.fetch("SELECT rated_amount, amount, debited, owed FROM credit_settlements ORDER BY id DESC LIMIT 1")
    )[0]
    assert tuple(row) == (-2, -20, -15, -5)
    assert await desk.fetch("SELECT status::text FROM subscriptions") == [("active",)]
    async with desk.pool.acquire() as connection:
        await summarise(connection)
    assert [name for name in await desk.differing() if "aggregator" not in name and "hours" not in name] == []


async def test_usage_and_its_void_in_one_window_leave_no_ledger_entry(desk: Desk) -> None:
    customer = await prepaid(desk, credit=25)
    used = await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR))
    await desk.deliver(*await take_back(desk.pool, [used]))
    assert await desk.settling.settle_all() == 1
    assert await account(desk) == (25, 0)
    assert await desk.value("SELECT count(*) FROM credit_transactions") == 1
    assert await desk.value("SELECT transaction_id FROM credit_settlements") is None


async def test_usage_near_the_end_of_the_credits_is_settled_at_once(desk: Desk) -> None:
    customer = await prepaid(desk, credit=100)
    await desk.use(usage(customer.subscription_id, request_tokens=7 * ONE_DOLLAR))
    assert await account(desk) == (100, 0)
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR))
    assert await account(desk) == (20, 0)


async def test_one_account_that_cannot_be_settled_does_not_hold_up_the_others(desk: Desk) -> None:
    sound, broken = await prepaid(desk, credit=100), await prepaid(desk, credit=100)
    await desk.use(
        usage(sound.subscription_id, request_tokens=ONE_DOLLAR),
        usage(broken.subscription_id, request_tokens=ONE_DOLLAR),
    )
    await desk.pool.execute(
        f"ALTER TABLE credit_settlements ADD CONSTRAINT broken CHECK (user_id <> '{broken.user_id}')"
    )
    assert await desk.settling.settle_all() == 1
    assert await desk.value("SELECT balance FROM user_credits WHERE user_id = $1", sound.user_id) == 90
    assert await desk.value("SELECT balance FROM user_credits WHERE user_id = $1", broken.user_id) == 100
    await desk.pool.execute("ALTER TABLE credit_settlements DROP CONSTRAINT broken")
    assert await desk.settling.settle_all() == 1
    assert await desk.differing() == []


async def test_postpaid_usage_is_not_settled(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR))
    assert await desk.settling.settle_all() == 0


async def test_credits_are_worth_what_the_rate_of_the_hour_of_usage_says(desk: Desk) -> None:
    customer = await prepaid(desk, credit=100)
    await set_rate(desk.pool, "USD", NOON, "2.5")
    await desk.use(
        usage(customer.subscription_id, request_tokens=ONE_DOLLAR, at=NOON),
        usage(customer.subscription_id, request_tokens=ONE_DOLLAR, at=NOON - timedelta(hours=1)),
    )
    assert await desk.settling.settle_all() == 2
    rates = await desk.fetch("SELECT credits_per_unit, amount FROM credit_settlements ORDER BY amount")
    assert [tuple(row) for row in rates] == [(Decimal("2.5"), Decimal("2.5")), (10, 10)]
    assert await account(desk) == (Decimal("87.5"), 0)
    assert await desk.differing() == []


async def test_usage_in_a_currency_without_a_rate_waits_and_is_told(desk: Desk) -> None:
    customer, second = await prepaid(desk, credit=100), UUID(int=5)
    await make_price(desk.pool, currency="CHF", per_1k=("2", "2", "2"))
    await add_subscription(desk.pool, customer.user_id, second, billing_mode="prepaid", currency="CHF")
    await desk.use(usage(customer.subscription_id, request_tokens=ONE_DOLLAR), usage(second, request_tokens=ONE_DOLLAR))
    assert await desk.settling.settle_all() == 1
    assert await desk.settling.settle_all() == 0
    assert await account(desk) == (90, 0)
    alerts = await desk.fetch("SELECT type, cause FROM billing_alerts")
    assert [tuple(row) for row in alerts] == [("unrated_usage", "credit rate CHF")]
    await set_rate(desk.pool, "CHF", NOON, "20")
    assert await desk.settling.settle_all() == 1
    assert await account(desk) == (50, 0)
    assert await desk.differing() == []
