"""Flat fees of prepaid subscriptions debit credits: once each as they fall due, and what the balance does not cover is owed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.billing.credits.desk.explaining import explain_prepaid_fee
from services.billing.credits.fees import charge_fees
from services.billing.subscriptions.desk.beginning import Wish, begin_subscription
from services.billing.subscriptions.life import StepRefused
from shared.outbox import Outbox
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import OCTOBER, Desk
from tests.integration.test_plans import change, make_plan, subscribe

START = OCTOBER.start


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await database_pool.execute("UPDATE credit_charges_made SET since = $1, charged_until = $1", START)
    return Desk(database_pool)


async def prepaid(
    desk: Desk, granted: str, *, plan: str = "team", at: datetime = START, **fields: Any
) -> tuple[UUID, UUID]:
    """Return a subscription whose usage and fees debit credits, and its user, who has some."""
    subscription = await subscribe(desk, plan, at=at, billing_mode="prepaid", **fields)
    user = await desk.value("SELECT user_id FROM subscriptions WHERE id = $1", subscription)
    if Decimal(granted):
        await desk.pool.execute(
            "SELECT add_user_credits($1, $2, 'promotional', idempotency_key => 'first')", user, Decimal(granted)
        )
    return subscription, user


async def charge(desk: Desk, at: datetime) -> int:
    desk.clock.at = at
    done = await charge_fees(desk.billing, Outbox("billing_outbox"), now=at)
    assert done.failed == 0
    return done.fees


async def account(desk: Desk, user: UUID) -> tuple[Any, ...]:
    (row,) = await desk.fetch("SELECT balance, owed FROM user_credits WHERE user_id = $1", user)
    return row["balance"], row["owed"]


async def test_a_fee_debits_credits_once_when_its_interval_begins(desk: Desk) -> None:
    await make_plan(desk, amount="100")
    _, user = await prepaid(desk, "5000")
    assert await charge(desk, START) == 0, "it begins now"
    assert [await charge(desk, START + timedelta(hours=n)) for n in (1, 2)] == [1, 0]
    assert await account(desk, user) == (4000, 0)
    assert await charge(desk, datetime(2026, 12, 5, tzinfo=UTC)) == 2
    assert await account(desk, user) == (2000, 0)
    found = await desk.fetch(
        "SELECT description, amount, credits, debited, owed, due_at FROM credit_charges ORDER BY due_at"
    )
    assert [tuple(row)[:5] for row in found] == [
        (f"Team, from 1 {month} 2026", Decimal(100), 1000, 1000, 0) for month in ("October", "November", "December")
    ]  # fmt: skip
    assert found[1]["due_at"] == OCTOBER.end
    assert await desk.differing() == []


async def test_what_the_balance_does_not_cover_is_owed_and_suspends(desk: Desk) -> None:
    await make_plan(desk, amount="100")
    subscription, user = await prepaid(desk, "400")
    await charge(desk, START + timedelta(hours=1))
    assert await account(desk, user) == (0, 600)
    status = "SELECT status || ' ' || array_to_string(suspended_reasons, ',') FROM subscriptions WHERE id = $1"
    assert await desk.value(status, subscription) == "suspended credits_exhausted"
    assert [row["type"] for row in await desk.fetch("SELECT type FROM billing_alerts")] == ["credits_exhausted"]
    await desk.pool.execute("SELECT add_user_credits($1, 700, 'promotional', idempotency_key => 'more')", user)
    assert await account(desk, user) == (100, 0)
    assert await desk.value("SELECT status FROM subscriptions WHERE id = $1", subscription) == "active"
    assert await desk.differing() == []


async def test_a_change_of_plan_gives_back_the_rest_of_the_old_fee_and_charges_the_rest_of_the_new(desk: Desk) -> None:
    await make_plan(desk, amount="31")
    await make_plan(desk, "large", amount="62")
    subscription, user = await prepaid(desk, "5000")
    await charge(desk, START + timedelta(hours=1))
    await change(desk, subscription, START + timedelta(days=10), plan_id="large")
    assert await charge(desk, START + timedelta(days=11)) == 2
    amounts = await desk.fetch("SELECT kind, amount FROM credit_charges ORDER BY due_at, amount")
    assert [tuple(row) for row in amounts] == [("fee", 31), ("proration", -21), ("proration", 42)]
    assert await account(desk, user) == (5000 - 310 - 210, 0)
    assert await desk.differing() == []


async def test_workers_at_once_charge_a_fee_once_and_it_can_be_explained(desk: Desk) -> None:
    await make_plan(desk, amount="100", fee_timing="arrears")
    _, user = await prepaid(desk, "5000", at=START + timedelta(days=15, hours=12))
    desk.clock.at = OCTOBER.end + timedelta(hours=1)
    outbox = Outbox("billing_outbox")
    done = await asyncio.gather(*(charge_fees(desk.billing, outbox, now=desk.clock.now()) for _ in range(3)))
    assert sum(one.fees for one in done) == 1
    assert await account(desk, user) == (4500, 0)
    (entry,) = await desk.fetch("SELECT transaction_id FROM credit_charges")
    async with desk.billing.acquire() as connection:
        found = await explain_prepaid_fee(connection, entry["transaction_id"])
        other = await connection.fetchval("SELECT id FROM credit_transactions WHERE transaction_type <> 'usage'")
        assert await explain_prepaid_fee(connection, other) is None
    assert found is not None
    assert found.holds
    assert (found.stated, found.facts["plan"]) == (Decimal(50), "team")
    assert "500 credits debited, 0 owed, at 10 for one USD" in found.title


async def test_a_fee_in_a_currency_without_a_rate_waits_for_one(desk: Desk) -> None:
    await make_plan(desk, amount="100", currency="CHF")
    _, user = await prepaid(desk, "5000", currency="CHF")
    assert await charge(desk, START + timedelta(hours=1)) == 0
    assert await desk.value("SELECT count(*) FROM billing_alerts WHERE type = 'unrated_usage'") == 1
    await desk.pool.execute(
        "INSERT INTO credit_rates (currency, valid_from, credits_per_unit) VALUES ('CHF', $1, 11)", START
    )
    assert await charge(desk, START + timedelta(days=5)) == 1
    assert await account(desk, user) == (3900, 0)


async def test_nothing_is_charged_for_times_before_there_were_fees_nor_for_plans_that_charge_by_usage(
    desk: Desk,
) -> None:
    await make_plan(desk, amount="100")
    await make_plan(desk, "metered-fee", amount="100", usage="included")
    await prepaid(desk, "5000", at=START - timedelta(days=40))
    await prepaid(desk, "5000", plan="metered-fee")
    await desk.pool.execute("UPDATE credit_charges_made SET since = $1", OCTOBER.end - timedelta(days=1))
    assert await charge(desk, OCTOBER.end + timedelta(hours=1)) == 1, "November of the first"


async def test_a_prepaid_subscription_to_a_plan_that_charges_by_usage_is_refused(desk: Desk) -> None:
    user = await desk.value(
        "SELECT user_id FROM subscriptions WHERE id = $1", await subscribe(desk, await make_plan(desk))
    )
    await make_plan(desk, "included", usage="included")
    wish = Wish(user=str(user), plan_id="included", billing_mode="prepaid")
    with pytest.raises(
        StepRefused, match="prepaid usage debits credits at its prices: take a plan with a flat fee only"
    ):
        async with transaction(desk.billing) as connection:
            await begin_subscription(connection, wish, now=START, actor="test")
