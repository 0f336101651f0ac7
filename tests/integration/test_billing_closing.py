"""Closing a period: one invoice per customer, currency and period, whatever is retried; its lines sum; it never changes again."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec
import pytest

from services.billing.invoices.closing import PeriodStillOpen, close_period
from shared.period import Period
from shared.postgres import Pool
from tests.integration.billing_facts import (
    NOON,
    NOVEMBER,
    OCTOBER,
    Desk,
    add_subscription,
    make_customer,
    make_price,
    usage,
)


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool)
    return Desk(database_pool)


async def test_a_period_becomes_an_invoice_with_a_line_for_each_component(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(
        usage(customer.subscription_id, request_tokens=10_000, cached_tokens=4_000, response_tokens=2_000),
        usage(customer.subscription_id, request_tokens=1_000, status_code=500),
    )
    closing = await desk.close()
    assert [(i.user_id, i.number, i.currency, i.total) for i in closing.invoices] == [
        (customer.user_id, "INV-2026-000001", "USD", Decimal("0.04"))
    ]
    invoice = (await desk.fetch("SELECT * FROM invoices"))[0]
    assert (invoice["status"], invoice["issue_date"], invoice["due_date"]) == (
        "sent", desk.clock.now(), desk.clock.now() + timedelta(days=14),
    )  # fmt: skip
    assert (invoice["period_start"], invoice["period_end"], invoice["tax"]) == (OCTOBER.start, OCTOBER.end, 0)
    lines = await desk.fetch("SELECT * FROM invoice_lines ORDER BY position")
    assert [(ln["component"], ln["quantity"], ln["exact_amount"], ln["event_count"]) for ln in lines] == [
        ("input", 6_000, Decimal("0.015"), 2),
        ("cached_input", 4_000, Decimal("0.005"), 2),
        ("output", 2_000, Decimal("0.02"), 2),
    ]
    assert sum(ln["amount"] for ln in lines) == invoice["total"] == Decimal("0.04")
    assert lines[0]["description"] == "gpt-4o: input tokens (balanced)"
    items = json.loads(invoice["items"], parse_float=Decimal)
    assert [(i["id"], i["quantity"], Decimal(i["amount"])) for i in items] == [
        (str(ln["id"]), ln["quantity"], ln["amount"]) for ln in lines
    ]
    assert await desk.value("SELECT count(DISTINCT invoice_line_id) FROM rated_usage") == 1
    assert await desk.differing() == []


async def test_what_is_priced_differently_is_on_lines_of_its_own(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.pool.execute("UPDATE model_prices SET valid_to = $1", NOON)
    await make_price(desk.pool, valid_from=NOON, per_1k=("1", "1", "1"))
    sub = customer.subscription_id
    await desk.use(
        usage(sub, at=NOON - timedelta(hours=1), request_tokens=1000),
        usage(sub, request_tokens=1000),
        usage(sub, request_tokens=1000, power_level="precision"),
        usage(sub, request_tokens=1000, byok=True),
    )
    await desk.close()
    lines = await desk.fetch("SELECT description, unit_price, exact_amount FROM invoice_lines ORDER BY position")
    assert sorted(tuple(ln) for ln in lines) == [
        ("gpt-4o: input tokens (balanced)", Decimal("0.0000025"), Decimal("0.0025")),
        ("gpt-4o: input tokens (balanced)", Decimal("0.001"), Decimal(1)),
        ("gpt-4o: input tokens (precision)", Decimal("0.0015"), Decimal("1.5")),
        ("gpt-4o: requests (balanced, own provider key)", 0, 0),
    ]
    assert await desk.differing() == []


async def test_features_of_a_model_share_its_lines_and_tools_have_their_own(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, model=None, tool="query-docs", per_request="0.003")
    sub = customer.subscription_id
    await desk.use(
        *(usage(sub, request_tokens=1000, feature_type=feature) for feature in ("chat", "analysis", None)),
        *(usage(sub, model=None, tool_name="query-docs", feature_type=feature) for feature in ("docs", None)),
    )
    await desk.close()
    lines = await desk.fetch("SELECT description, quantity, event_count FROM invoice_lines ORDER BY position")
    assert [tuple(line) for line in lines] == [
        ("gpt-4o: input tokens (balanced)", 3000, 3),
        ("query-docs: requests (balanced)", 1, 1),
        ("query-docs: requests (balanced)", 1, 1),
    ]
    assert await desk.differing() == []


async def test_closing_twice_makes_one_invoice(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    assert len((await desk.close()).invoices) == 1
    assert (await desk.close()).invoices == []
    assert await desk.value("SELECT count(*) FROM invoices") == 1


async def test_closing_by_several_workers_at_once_makes_one_invoice_each(desk: Desk) -> None:
    for _ in range(6):
        customer = await make_customer(desk.pool)
        await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    closings = await asyncio.gather(*(desk.close() for _ in range(4)))
    assert sum(len(closing.invoices) for closing in closings) == 6
    assert all(closing.failures == [] for closing in closings)
    numbers = [row["number"] for row in await desk.fetch("SELECT number FROM invoices ORDER BY number")]
    assert numbers == [f"INV-2026-{n:06}" for n in range(1, 7)]
    assert await desk.differing() == []


async def test_a_failed_attempt_leaves_no_gap_in_the_numbers(desk: Desk) -> None:
    sound, broken = await make_customer(desk.pool), await make_customer(desk.pool)
    await desk.use(
        usage(sound.subscription_id, request_tokens=10_000), usage(broken.subscription_id, request_tokens=10_000)
    )
    await desk.pool.execute(
        f"ALTER TABLE invoices ADD CONSTRAINT broken CHECK (user_id <> '{broken.user_id}' OR status = 'draft')"
    )
    closing = await desk.close()
    assert [i.user_id for i in closing.invoices] == [sound.user_id]
    assert [customer.user_id for customer, _ in closing.failures] == [broken.user_id]
    assert await desk.differing() == []
    await desk.pool.execute("ALTER TABLE invoices DROP CONSTRAINT broken")
    closing = await desk.close()
    assert [(i.user_id, i.number) for i in closing.invoices] == [(broken.user_id, "INV-2026-000002")]
    assert await desk.differing() == []


async def test_late_usage_becomes_an_adjustment_on_the_next_invoice(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    sub = customer.subscription_id
    await desk.use(usage(sub, request_tokens=10_000))
    await desk.close()
    await desk.use(usage(sub, request_tokens=4_000), usage(sub, at=NOON + timedelta(days=25), request_tokens=8_000))
    assert (await desk.close()).invoices == []

    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    assert len((await desk.close(NOVEMBER)).invoices) == 1
    lines = await desk.fetch(
        "SELECT l.kind, l.description, l.quantity, l.period_start FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id "
        "WHERE i.period_start = $1 ORDER BY position",
        NOVEMBER.start,
    )
    assert [tuple(line) for line in lines] == [
        ("usage", "gpt-4o: input tokens (balanced)", 8_000, NOVEMBER.start),
        ("adjustment", "gpt-4o: input tokens in October 2026 (balanced)", 4_000, OCTOBER.start),
    ]
    assert await desk.differing() == []


async def test_each_currency_has_an_invoice_of_its_own(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await make_price(desk.pool, currency="EUR")
    await add_subscription(desk.pool, customer.user_id, euro := customer.user_id, currency="EUR")
    await desk.use(usage(customer.subscription_id, request_tokens=10_000), usage(euro, request_tokens=20_000))
    closing = await desk.close()
    assert sorted((i.currency, i.total) for i in closing.invoices) == [
        ("EUR", Decimal("0.05")),
        ("USD", Decimal("0.03")),
    ]
    assert await desk.differing() == []


async def test_rounding_residues_are_placed_so_that_lines_sum_to_the_total(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    for model in ("a", "b", "c"):
        await make_price(desk.pool, model=model, per_1k=("0.0033", "0", "0"))
    await desk.use(*(usage(customer.subscription_id, model=m, request_tokens=1000) for m in ("a", "b", "c")))
    closing = await desk.close()
    assert closing.invoices[0].total == Decimal("0.01")
    amounts = [row["amount"] for row in await desk.fetch("SELECT amount FROM invoice_lines ORDER BY position")]
    assert amounts == [Decimal("0.01"), 0, 0]


async def test_a_customer_without_usage_gets_no_invoice(desk: Desk) -> None:
    await make_customer(desk.pool)
    assert (await desk.close()).invoices == []
    assert await desk.value("SELECT count(*) FROM invoices") == 0


async def test_a_plan_fee_is_charged_once_for_each_interval_with_or_without_usage(desk: Desk) -> None:
    customer = await make_customer(desk.pool, plan_id="basic")
    await desk.pool.execute("UPDATE subscriptions SET created_at = '2026-09-20T10:00:00Z'")
    closing = await desk.close()
    assert [(i.currency, i.total) for i in closing.invoices] == [("EUR", Decimal(19))]
    assert await desk.fetch("SELECT kind, description, period_start, period_end FROM invoice_lines") == [
        (
            "fee",
            "Basic, from 20 October 2026",
            datetime(2026, 10, 20, 10, tzinfo=UTC),
            datetime(2026, 11, 20, 10, tzinfo=UTC),
        )
    ]
    half = Period(OCTOBER.start, datetime(2026, 10, 25, tzinfo=UTC))
    assert (await desk.close(half)).invoices == []
    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    assert [i.total for i in (await desk.close(NOVEMBER)).invoices] == [Decimal(19)]
    assert customer.user_id == await desk.value("SELECT DISTINCT user_id FROM invoices")
    assert await desk.differing() == []


async def test_only_the_customer_who_is_asked_for_is_invoiced(desk: Desk) -> None:
    one, other = await make_customer(desk.pool), await make_customer(desk.pool)
    await desk.use(*(usage(c.subscription_id, request_tokens=10_000) for c in (one, other)))
    closing = await desk.close(only_user=other.user_id)
    assert [i.user_id for i in closing.invoices] == [other.user_id]


async def test_a_period_is_not_closed_before_its_grace_is_over(desk: Desk) -> None:
    desk.clock.at = OCTOBER.end + timedelta(hours=23)
    with pytest.raises(PeriodStillOpen, match="2026-11-02T00:00:00"):
        await close_period(desk.pool, OCTOBER, clock=desk.clock, grace=timedelta(hours=24))


async def test_an_issued_invoice_and_its_lines_never_change(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    await desk.close()
    for change in (
        "UPDATE invoices SET total = 0, subtotal = 0",
        "DELETE FROM invoices",
        "UPDATE invoice_lines SET amount = 0, exact_amount = 0, unit_price = 0",
        "DELETE FROM invoice_lines",
        "UPDATE rated_usage SET invoice_line_id = NULL",
        "UPDATE rated_usage SET amount = 0",
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await desk.pool.execute(change)
        assert refused.value.sqlstate == "TS003"


async def test_issuing_is_announced_in_the_same_transaction(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    closing = await desk.close()
    message = (await desk.fetch("SELECT * FROM billing_outbox"))[0]
    event: dict[str, Any] = msgspec.json.decode(message["value"])
    assert (event["type"], event["subject"]) == ("tallystick.invoice.issued.v1", str(customer.user_id))
    assert event["id"] == str(message["id"])
    assert event["data"]["number"] == closing.invoices[0].number
    assert event["data"]["total"] == "0.03"


async def test_prepaid_usage_is_not_invoiced(desk: Desk) -> None:
    customer = await make_customer(desk.pool, billing_mode="prepaid")
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    assert (await desk.close()).invoices == []
