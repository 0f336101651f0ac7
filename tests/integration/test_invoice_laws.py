"""Laws of invoicing on a real database: a preview is the invoice, and the order in which things happen does not change what is paid."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from services.billing.credits.grants import give
from services.billing.invoices import corrections
from services.billing.invoices.closing import draft_period
from services.billing.invoices.document import InvoiceDocument
from services.billing.invoices.jobs import drafting_job
from services.billing.invoices.preview import Preview, preview
from services.billing.invoices.reading import read_invoice
from services.billing.invoices.terms import Terms
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import NOON, OCTOBER, Desk, add_subscription, make_customer, make_price, usage
from tests.integration.test_invoice_corrections import books, take_back

MONTHS = [Period.parse_month(f"2026-{month}") for month in (10, 11, 12)]


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("0.0033", "0.001", "0.0101"))
    await database_pool.execute("UPDATE legal_entities SET vat_id = 'DE136695976', tax_rate = 0.19")
    return Desk(database_pool)


async def previewed(desk: Desk, user: UUID, period: Period = OCTOBER) -> list[Preview]:
    async with desk.billing.acquire() as connection:
        return await preview(connection, user, period, now=desk.clock.now())


def content(invoice: InvoiceDocument) -> tuple[object, ...]:
    """Return what must be the same of a preview and its invoice: everything but ids, number and dates."""
    lines = [
        (ln.position, ln.kind, ln.description, ln.quantity, ln.unit_price, ln.exact_amount, ln.amount, ln.tax_rate, ln.charge_key, ln.event_count)
        for ln in invoice.lines
    ]  # fmt: skip
    return (
        lines, invoice.taxes, invoice.exact_subtotal, invoice.subtotal, invoice.total, invoice.seller, invoice.buyer, invoice.language,
        invoice.payment_terms_days, invoice.currency, invoice.period_start, invoice.period_end,
    )  # fmt: skip


async def test_a_preview_at_the_end_of_the_grace_is_the_invoice(desk: Desk) -> None:
    customer = await make_customer(desk.pool, plan_id="premium", currency="EUR")
    await make_price(desk.pool, currency="EUR")
    await add_subscription(desk.pool, customer.user_id, other := uuid7(), currency="USD")
    await desk.pool.execute("UPDATE subscriptions SET created_at = '2026-09-20T10:00:00Z'")
    await desk.use(
        usage(customer.subscription_id, request_tokens=123_457, response_tokens=999),
        usage(customer.subscription_id, at=NOON - timedelta(days=40), request_tokens=7_001),
        usage(other, request_tokens=55_555, cached_tokens=12_345, power_level="eco"),
        usage(other, request_tokens=1, byok=True),
    )
    await take_back(desk, customer.subscription_id, request_tokens=17)
    before = await desk.value("SELECT count(*) FROM rated_usage WHERE invoice_line_id IS NULL")
    previews = {p.invoice.currency: p for p in await previewed(desk, customer.user_id)}
    assert set(previews) == {"EUR", "USD"}
    assert await desk.value("SELECT count(*) FROM rated_usage WHERE invoice_line_id IS NULL") == before
    assert await desk.value("SELECT count(*) FROM invoices") == 0
    for issued in (await desk.close()).invoices:
        async with desk.billing.acquire() as connection:
            invoice = await read_invoice(connection, issued.id)
        assert content(previews[issued.currency].invoice) == content(invoice)
    assert await previewed(desk, customer.user_id) == []


async def test_a_preview_takes_off_what_was_granted_and_forecasts_the_rest_of_the_month(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    async with transaction(desk.pool) as connection:
        await give(connection, customer.user_id, Decimal(2), "USD", kind="promotional", reason="Welcome")
    await desk.use(usage(customer.subscription_id, at=OCTOBER.start + timedelta(days=3), request_tokens=1_000_000))
    desk.clock.at = OCTOBER.start + timedelta(days=OCTOBER.duration.days / 2)
    (found,) = await previewed(desk, customer.user_id)
    assert (found.invoice.subtotal, found.forecast) == (Decimal("1.30"), Decimal("4.60"))
    desk.clock.at = datetime(2026, 11, 3, tzinfo=UTC)
    assert (await desk.close()).invoices[0].total == found.invoice.total


async def test_a_running_month_does_not_show_what_the_month_before_will_be_invoiced_for(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=1_000_000))
    await desk.use(usage(customer.subscription_id, at=datetime(2026, 11, 1, 3, tzinfo=UTC), request_tokens=100_000))
    (running,) = await previewed(desk, customer.user_id, MONTHS[1])
    assert [(ln.kind, ln.quantity) for ln in running.invoice.lines] == [("usage", Decimal(100_000))]
    await desk.close()
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    (running,) = await previewed(desk, customer.user_id, MONTHS[1])
    assert [(ln.kind, ln.quantity) for ln in running.invoice.lines] == [
        ("usage", Decimal(100_000)),
        ("adjustment", Decimal(10_000)),
    ]


async def test_late_events_go_into_the_draft_until_it_is_issued(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=100_000))
    drafts = await draft_period(desk.billing, OCTOBER)
    assert await draft_period(desk.billing, OCTOBER) == drafts
    await desk.use(usage(customer.subscription_id, request_tokens=900_000))
    issued = (await desk.close()).invoices
    assert [(i.id, i.total) for i in issued] == [(drafts[0], Decimal("3.93"))]
    assert await draft_period(desk.billing, OCTOBER) == []
    nothing = await make_customer(desk.pool)
    await desk.pool.execute(
        "INSERT INTO invoices (user_id, currency, period_start, period_end) VALUES ($1, 'USD', $2, $3)",
        nothing.user_id, OCTOBER.start, OCTOBER.end,
    )  # fmt: skip
    assert (await desk.close()).invoices == []


async def test_the_job_drafts_the_month_that_ended_and_leaves_one_whose_grace_is_over_to_the_closing(
    desk: Desk,
) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=100_000))
    job = drafting_job(desk.billing, desk.clock, grace=timedelta(days=1), terms=Terms())
    assert await job.effect(OCTOBER.end) == {"period": "2026-10", "drafts": 0}
    desk.clock.at = OCTOBER.end + timedelta(hours=1)
    assert await job.effect(OCTOBER.end) == {"period": "2026-10", "drafts": 1}
    assert await desk.value("SELECT status FROM invoices") == "draft"


async def test_whoever_drafts_closes_and_rates_at_the_same_time_there_is_one_invoice_and_nothing_is_lost(
    desk: Desk,
) -> None:
    customers = [await make_customer(desk.pool) for _ in range(3)]
    for customer in customers:
        await desk.use(usage(customer.subscription_id, request_tokens=1_000_000))

    async def rate_more() -> None:
        for customer in customers:
            await desk.use(usage(customer.subscription_id, request_tokens=10_000))

    await asyncio.gather(
        desk.close(),
        draft_period(desk.billing, OCTOBER),
        rate_more(),
        desk.close(),
        draft_period(desk.billing, OCTOBER),
        desk.close(),
    )
    assert await desk.value("SELECT count(*) FROM invoices WHERE number IS NOT NULL") == 3
    assert await desk.value("SELECT count(*) FROM invoices WHERE number IS NULL") == 0
    lines, rated = await asyncio.gather(
        desk.value("SELECT sum(exact_amount) FROM invoice_lines"),
        desk.value("SELECT sum(amount) FILTER (WHERE invoice_line_id IS NOT NULL) FROM rated_usage"),
    )
    assert lines == rated
    assert await books(desk) == []


@pytest.mark.parametrize("policy", ["adjustment", "credit_note"])
async def test_the_order_of_late_usage_corrections_and_closings_does_not_change_what_is_paid(
    desk: Desk, policy: str
) -> None:
    await desk.pool.execute("UPDATE legal_entities SET late_usage = $1", policy)
    paid = [await _life(desk, random.Random(seed)) for seed in range(4)]
    assert len(set(paid)) == 1, paid
    assert paid[0] > 0
    assert await books(desk) == []


async def _life(desk: Desk, order: random.Random) -> Decimal:
    """Let the same things happen to a new customer in some order; return what it is invoiced in the end, less what is given back."""
    customer = await make_customer(desk.pool)
    sub = customer.subscription_id
    await desk.use(usage(sub, request_tokens=10_000_001, response_tokens=777))  # there before anything is taken back

    async def close() -> None:
        for month in MONTHS:
            if order.random() < 0.6:
                desk.clock.at = month.end + timedelta(days=2)
                assert (await desk.close(month, only_user=customer.user_id)).failures == []

    async def void() -> None:
        id_ = await desk.value(
            "SELECT id FROM invoices WHERE user_id = $1 AND status <> 'cancelled' AND number IS NOT NULL",
            customer.user_id,
        )
        if id_ is not None:
            async with transaction(desk.billing) as connection:
                await corrections.void_invoice(connection, id_, reason="again", at=desk.clock.now(), rebill=True)

    happenings: list[Callable[[], Awaitable[object]]] = [
        lambda: desk.use(usage(sub, request_tokens=333_333)),
        lambda: desk.use(usage(sub, at=datetime(2026, 11, 9, 3, tzinfo=UTC), response_tokens=55_555)),
        lambda: desk.use(usage(sub, at=datetime(2026, 12, 24, 3, tzinfo=UTC), request_tokens=4_444, power_level="precision")),
        lambda: take_back(desk, sub, request_tokens=1_234_567),
        lambda: take_back(desk, sub, request_tokens=222_222, response_tokens=7),
        close, close, void,
    ]  # fmt: skip
    order.shuffle(happenings)
    for happening in happenings:
        await happening()
    desk.clock.at = datetime(2027, 2, 2, tzinfo=UTC)
    for month in MONTHS:
        await desk.close(month, only_user=customer.user_id)
    await desk.use(
        usage(sub, at=datetime(2027, 1, 1, 3, tzinfo=UTC), request_tokens=9_000_000)
    )  # takes what was carried over
    await desk.close(Period.parse_month("2027-01"), only_user=customer.user_id)
    return Decimal(
        await desk.value(
            """SELECT coalesce((SELECT sum(exact_subtotal) FROM invoices WHERE user_id = $1 AND NOT rebilled), 0)
                    - coalesce((SELECT sum(n.exact_subtotal) FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id
                                WHERE n.user_id = $1 AND NOT i.rebilled), 0)""",
            customer.user_id,
        )
    )
