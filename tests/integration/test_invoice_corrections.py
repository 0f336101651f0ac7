"""Corrections: what was issued is taken back by notes, never edited; never more than was invoiced; and all of it is in the books."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.billing.credits.grants import give
from services.billing.invoices import corrections
from services.billing.invoices.crediting import CreditRefused
from services.billing.invoices.document import CreditNoteDocument, InvoiceDocument
from services.billing.invoices.reading import read_credit_note, read_invoice
from services.billing.payments.recording import record_payment
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import NOON, NOVEMBER, Customer, Desk, make_customer, make_price, usage

TAXED = "UPDATE legal_entities SET vat_id = 'DE136695976', tax_rate = 0.19"


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool, per_1k=("1", "1", "1"))
    await database_pool.execute(TAXED)
    return Desk(database_pool)


async def invoiced(desk: Desk, **quantities: Any) -> tuple[Customer, InvoiceDocument]:
    """Return a customer and its invoice for October."""
    customer = await make_customer(desk.pool)
    await desk.use(
        usage(customer.subscription_id, **quantities or {"request_tokens": 10_000, "response_tokens": 5_000})
    )
    issued = (await desk.close(only_user=customer.user_id)).invoices[0]
    return customer, await read(desk, issued.id)


async def read(desk: Desk, id_: UUID) -> InvoiceDocument:
    async with desk.billing.acquire() as connection:
        return await read_invoice(connection, id_)


async def credit(desk: Desk, invoice: UUID, lines: Any = None, **options: Any) -> CreditNoteDocument:
    async with transaction(desk.billing) as connection:
        return await corrections.credit_note(
            connection, invoice, lines, **{"reason": "agreed", "at": desk.clock.now(), **options}
        )


async def void(desk: Desk, invoice: UUID, *, rebill: bool = False) -> CreditNoteDocument:
    async with transaction(desk.billing) as connection:
        return await corrections.void_invoice(connection, invoice, reason="wrong", at=desk.clock.now(), rebill=rebill)


async def take_back(desk: Desk, subscription: UUID, **quantities: int) -> None:
    """Store rated usage that takes back some of October's, as a void of its events leaves it."""
    await desk.pool.execute(
        """INSERT INTO rated_usage (subscription_id, hour, model_id, rating_run_id, user_id, billing_mode, requests, request_tokens,
                                    response_tokens, price_id, multiplier, currency, amount)
           SELECT r.subscription_id, r.hour, r.model_id, $2, r.user_id, r.billing_mode, -1, -$3::bigint, -$4::bigint, r.price_id, r.multiplier,
                  r.currency, -0.001 * ($3 * p.input_price_per_1k + $4 * p.output_price_per_1k) * r.multiplier
           FROM rated_usage r JOIN model_prices p ON p.id = r.price_id
           WHERE r.subscription_id = $1 AND r.requests > 0 ORDER BY r.rated_at, r.rating_run_id LIMIT 1""",
        subscription, uuid7(), quantities.get("request_tokens", 0), quantities.get("response_tokens", 0),
    )  # fmt: skip


async def books(desk: Desk) -> list[str]:
    """Return the checks that do not hold, but for the log, which these tests do not write corrections to."""
    return [name for name in await desk.differing() if not name.startswith(("log", "hours"))]


async def test_a_credit_note_takes_back_part_of_a_line_and_its_tax(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    note = await credit(desk, invoice.id, {1: Decimal("2.50")})
    assert (note.number, note.kind, note.invoice_number) == ("CN-2026-000001", "correction", "INV-2026-000001")
    assert (note.subtotal, note.tax, note.total) == (Decimal("2.50"), Decimal("0.48"), Decimal("2.98"))
    assert (note.seller, note.buyer, note.language) == (invoice.seller, invoice.buyer, invoice.language)
    after = await read(desk, invoice.id)
    assert (after.amount_credited, after.amount_due) == (note.total, invoice.total - note.total)
    assert after.credit_notes == (note.number,)
    assert await books(desk) == []


async def test_who_wrote_a_note_is_in_the_audit_trail(desk: Desk) -> None:
    """audit_credit_note: also of a part, which leaves the invoice in the state that it was in."""
    _, invoice = await invoiced(desk)
    note = await credit(desk, invoice.id, {1: Decimal("2.50")}, actor="ada")
    (entry,) = await desk.fetch("SELECT * FROM audit_logs WHERE resource_id = $1", str(note.id))
    assert (entry["action"], entry["actor"], entry["user_id"]) == ("credit_note.issued", "ada", invoice.user_id)
    assert '"reason": "agreed"' in entry["after"]


async def test_notes_of_all_parts_come_to_exactly_the_invoice(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    for amount in ("0.33", "0.33", "0.34", "3.01"):
        await credit(desk, invoice.id, {1: Decimal(amount)})
    last = await credit(desk, invoice.id)
    after = await read(desk, invoice.id)
    assert (after.amount_credited, after.amount_due) == (invoice.total, Decimal(0))
    assert last.number == "CN-2026-000005"
    assert await desk.value("SELECT sum(tax) FROM credit_notes") == invoice.tax
    assert await books(desk) == []
    with pytest.raises(CreditRefused):
        await credit(desk, invoice.id, {1: Decimal("0.01")})


async def test_no_more_is_taken_back_than_was_invoiced_by_any_two_at_once(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    tried = await asyncio.gather(*(credit(desk, invoice.id, {1: Decimal(6)}) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, CreditRefused) for result in tried].count(True) == 2
    assert await desk.value("SELECT count(*) FROM credit_notes") == 1
    assert await books(desk) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({1: Decimal("10.01")}, "10.00 are left of it"),
        ({1: Decimal("-1")}, "cannot be taken back"),
        ({1: Decimal("0.001")}, "too many digits"),
        ({7: None}, "has no line 7"),
    ],
)
async def test_what_cannot_be_taken_back_is_refused_and_changes_nothing(desk: Desk, lines: Any, message: str) -> None:
    _, invoice = await invoiced(desk)
    with pytest.raises(CreditRefused, match=message):
        await credit(desk, invoice.id, lines)
    assert await read(desk, invoice.id) == invoice


async def test_a_repeated_call_returns_the_first_note(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    notes = [await credit(desk, invoice.id, {1: Decimal(1)}, idempotency_key="ticket 7") for _ in range(2)]
    assert notes[0] == notes[1]
    assert await desk.value("SELECT count(*) FROM credit_notes") == 1


async def test_a_void_invoice_is_credited_whole_and_its_usage_is_not_billed_again(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    await credit(desk, invoice.id, {2: Decimal(1)})
    note = await void(desk, invoice.id)
    after = await read(desk, invoice.id)
    assert (after.status, after.cancel_reason, after.amount_due, after.rebilled) == (
        "cancelled",
        "wrong",
        Decimal(0),
        False,
    )
    assert (note.kind, note.subtotal) == ("void", Decimal(14))
    assert (await desk.close()).invoices == []
    assert await books(desk) == []
    with pytest.raises(CreditRefused, match="is void"):
        await void(desk, invoice.id)


async def test_a_void_invoice_can_be_made_anew_with_its_usage_and_charges(desk: Desk) -> None:
    customer = await make_customer(desk.pool, plan_id="basic", currency="EUR")
    await make_price(desk.pool, currency="EUR", per_1k=("1", "1", "1"))
    await desk.pool.execute("UPDATE subscriptions SET created_at = '2026-09-20T10:00:00Z'")
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    first = (await desk.close()).invoices[0]
    await void(desk, first.id, rebill=True)
    assert await books(desk) == []
    await desk.pool.execute(
        "INSERT INTO billing_profiles (user_id, name, tax_treatment, vat_id) VALUES ($1, 'Ada', 'reverse_charge', 'FR40303265045')",
        customer.user_id,
    )
    second = (await desk.close()).invoices[0]
    old, new = await read(desk, first.id), await read(desk, second.id)
    assert [(ln.kind, ln.amount) for ln in new.lines] == [(ln.kind, ln.amount) for ln in old.lines]
    assert (new.number, new.subtotal, new.tax) == ("INV-2026-000002", old.subtotal, Decimal(0))
    assert await books(desk) == []


async def test_what_was_paid_of_a_void_invoice_stays_with_the_customer(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    async with transaction(desk.billing) as connection:
        await record_payment(
            connection, invoice.id, invoice.total, "USD", provider="manual", reference="INV", paid_at=desk.clock.now(), idempotency_key="bank 1"
        )  # fmt: skip
    assert (await read(desk, invoice.id)).status == "paid"
    await credit(desk, invoice.id, {2: Decimal(5)})
    partly = await read(desk, invoice.id)
    assert (partly.status, partly.amount_due, partly.amount_paid) == ("paid", Decimal(0), Decimal("11.90"))
    await void(desk, invoice.id)
    after = await read(desk, invoice.id)
    assert (after.status, after.amount_paid, after.amount_due, after.paid_date) == (
        "cancelled",
        Decimal(0),
        Decimal(0),
        None,
    )
    assert await desk.value("SELECT amount - allocated_amount FROM payments") == invoice.total
    assert await books(desk) == []


async def test_voiding_gives_back_the_credits_that_an_invoice_used(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    async with transaction(desk.pool) as connection:
        await give(connection, customer.user_id, Decimal(4), "USD", kind="promotional", reason="Welcome")
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    first = (await desk.close()).invoices[0]
    assert first.total == Decimal("7.14")
    await void(desk, first.id, rebill=True)
    assert (await desk.close()).invoices[0].total == Decimal("7.14")
    lines = (await read(desk, first.id)).lines
    assert [(ln.kind, ln.amount) for ln in lines] == [("usage", Decimal(10)), ("credit", Decimal(-4))]
    assert await books(desk) == []


async def test_a_grant_pays_the_rounded_sum_and_nothing_is_carried_over_for_that(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    async with transaction(desk.pool) as connection:
        await give(connection, customer.user_id, Decimal(20), "USD", kind="promotional", reason="Welcome")
    await desk.use(usage(customer.subscription_id, request_tokens=9_996))
    invoice = await read(desk, (await desk.close()).invoices[0].id)
    assert [(ln.kind, ln.exact_amount) for ln in invoice.lines] == [
        ("usage", Decimal("9.996")),
        ("credit", Decimal(-10)),
    ]
    assert (invoice.total, invoice.status) == (Decimal(0), "paid")
    assert await desk.value("SELECT remaining FROM credits") == 10
    assert await books(desk) == []


async def test_a_note_over_what_a_grant_paid_gives_it_back_to_the_grant(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    async with transaction(desk.pool) as connection:
        await give(connection, customer.user_id, Decimal(4), "USD", kind="promotional", reason="Welcome")
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    invoice = (await desk.close()).invoices[0].id
    with pytest.raises(CreditRefused, match="it goes back to the grant whole"):
        await credit(desk, invoice, {1: Decimal(5), 2: Decimal(-2)})
    await credit(desk, invoice, {1: Decimal(1)})
    assert await desk.value("SELECT remaining FROM credits") == 0, "the money goes back first"
    await credit(desk, invoice)
    assert await desk.value("SELECT remaining FROM credits") == 4
    assert await books(desk) == []
    await void(desk, invoice)
    assert await desk.value("SELECT remaining FROM credits") == 4
    await desk.use(usage(customer.subscription_id, at=datetime(2026, 11, 5, tzinfo=UTC), request_tokens=3_000))
    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    assert (await desk.close(NOVEMBER)).invoices[0].total == 0
    assert await books(desk) == []


async def test_credit_that_is_carried_over_is_not_given_once_more(desk: Desk) -> None:
    """Voided without rebilling, the invoice would count no more as having given it, and the credit would still be on its way."""
    customer, invoice = await invoiced(desk)
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    november = (await desk.close(NOVEMBER)).invoices[0].id
    with pytest.raises(CreditRefused, match="carries credit over to the next invoice: void it with --rebill"):
        await void(desk, november)
    assert (await credit(desk, invoice.id)).subtotal == 12
    await void(desk, november, rebill=True)
    assert await books(desk) == []


async def test_usage_taken_back_later_is_an_adjustment_on_the_next_invoice(desk: Desk) -> None:
    customer, _ = await invoiced(desk)
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    await desk.use(usage(customer.subscription_id, at=datetime(2026, 11, 5, tzinfo=UTC), request_tokens=8_000))
    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    november = await read(desk, (await desk.close(NOVEMBER)).invoices[0].id)
    assert [(ln.kind, ln.quantity, ln.amount) for ln in november.lines] == [
        ("usage", Decimal(8_000), Decimal(8)),
        ("adjustment", Decimal(-3_000), Decimal(-3)),
    ]
    assert november.subtotal == 5
    assert await books(desk) == []


async def test_an_invoice_that_would_be_negative_carries_its_credit_over(desk: Desk) -> None:
    customer, _ = await invoiced(desk)
    await take_back(desk, customer.subscription_id, request_tokens=3_000)
    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    november = await read(desk, (await desk.close(NOVEMBER)).invoices[0].id)
    assert [(ln.kind, ln.amount) for ln in november.lines] == [("adjustment", Decimal(-3)), ("carried", Decimal(3))]
    assert (november.total, november.status, november.paid_date) == (Decimal(0), "paid", november.issue_date)

    await desk.use(usage(customer.subscription_id, at=datetime(2026, 12, 5, tzinfo=UTC), request_tokens=10_000))
    desk.clock.at = datetime(2027, 1, 2, tzinfo=UTC)
    december = type(NOVEMBER).parse_month("2026-12")
    next_one = await read(desk, (await desk.close(december)).invoices[0].id)
    assert [(ln.kind, ln.amount, ln.description) for ln in next_one.lines][1] == (
        "carried", Decimal(-3), "Credit carried over from INV-2026-000002",
    )  # fmt: skip
    assert (next_one.number, next_one.subtotal) == ("INV-2027-000001", Decimal(7))
    assert await books(desk) == []
    with pytest.raises(CreditRefused, match="credit that INV-2027-000001 has counted"):
        await void(desk, november.id, rebill=True)
    await void(desk, next_one.id, rebill=True)
    assert (await desk.close(december)).invoices[0].total == next_one.total
    assert await books(desk) == []


async def test_a_customer_may_want_credit_notes_for_usage_that_is_taken_back(desk: Desk) -> None:
    await desk.pool.execute("UPDATE legal_entities SET late_usage = 'credit_note'")
    customer, invoice = await invoiced(desk)
    await take_back(desk, customer.subscription_id, request_tokens=3_000, response_tokens=1_000)
    desk.clock.at = datetime(2026, 12, 2, tzinfo=UTC)
    assert (await desk.close(NOVEMBER)).invoices == []
    after = await read(desk, invoice.id)
    async with desk.billing.acquire() as connection:
        note = await read_credit_note(connection, after.credit_notes[0])
    assert [(ln.quantity, ln.amount, ln.invoice_line_id) for ln in note.lines] == [
        (Decimal(3_000), Decimal(3), invoice.lines[0].id),
        (Decimal(1_000), Decimal(1), invoice.lines[1].id),
    ]
    assert (note.kind, note.total) == ("late_usage", Decimal("4.76"))
    assert await desk.value("SELECT count(*) FROM invoices") == 1
    assert await books(desk) == []
    await void(desk, invoice.id, rebill=True)
    again = await desk.close()
    assert [i.total for i in again.invoices] == [Decimal("13.09")]
    assert await books(desk) == []


async def test_usage_taken_back_before_it_was_billed_leaves_no_line(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10_000))
    await take_back(desk, customer.subscription_id, request_tokens=10_000)
    assert (await desk.close()).invoices == []
    await desk.use(usage(customer.subscription_id, request_tokens=2_000, power_level="eco"))
    invoice = await read(desk, (await desk.close()).invoices[0].id)
    assert [(ln.quantity, ln.event_count) for ln in invoice.lines] == [(Decimal(2_000), 1)]
    assert await books(desk) == []


async def test_a_disputed_invoice_says_so_until_that_is_settled(desk: Desk) -> None:
    _, invoice = await invoiced(desk)
    async with transaction(desk.billing) as connection:
        await corrections.dispute(connection, invoice.id, reason="too many tokens", at=NOON)
    assert (await read(desk, invoice.id)).dispute_reason == "too many tokens"
    async with transaction(desk.billing) as connection:
        await corrections.settle_dispute(connection, invoice.id)
    assert (await read(desk, invoice.id)).disputed_at is None
    trail = await desk.fetch(
        "SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY created_at", str(invoice.id)
    )
    assert [row["action"] for row in trail] == ["invoice.disputed", "invoice.dispute_settled"]


async def test_who_wants_no_zero_invoices_gets_what_they_are_over_with_the_next_one(desk: Desk) -> None:
    await desk.pool.execute("UPDATE legal_entities SET issue_zero_invoices = false")
    free, paying = await make_customer(desk.pool), await make_customer(desk.pool)
    await desk.use(
        usage(free.subscription_id, request_tokens=10_000, byok=True),
        usage(paying.subscription_id, request_tokens=1_000),
    )
    closing = await desk.close()
    assert ([i.user_id for i in closing.invoices], [c.user_id for c in closing.deferred]) == (
        [paying.user_id],
        [free.user_id],
    )
    assert await desk.value("SELECT count(*) FROM invoices") == 1
    await desk.use(usage(free.subscription_id, request_tokens=1_000))
    second = await read(desk, (await desk.close()).invoices[0].id)
    assert [(ln.quantity, ln.amount) for ln in second.lines] == [(Decimal(1_000), Decimal(1)), (Decimal(1), Decimal(0))]
    assert await books(desk) == []
