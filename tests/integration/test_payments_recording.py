"""Money that came: recorded once, allocated, and what follows for invoices, packages and the customer's history."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.billing.payments.invoice_state import UnknownInvoice, apply_leftovers, refresh_invoice
from services.billing.payments.recording import PaymentRefused, record_payment
from services.billing.payments.state import AmountRefused
from services.billing.payments.store import begin
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.payment_facts import DUE, Till


@pytest.fixture
def till(database_pool: Pool) -> Till:
    return Till(database_pool)


async def record(till: Till, invoice_id: UUID, amount: str, key: str = "k1", **options: Any) -> Any:
    facts = {"provider": "manual", "reference": "transfer", "paid_at": DUE, "idempotency_key": key, **options}
    currency = facts.pop("currency", "USD")
    async with transaction(till.billing) as connection:
        return await record_payment(connection, invoice_id, Decimal(amount), currency, **facts)


async def test_an_invoice_is_paid_in_parts(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    first = await record(till, invoice, "40")
    assert (first.allocated, first.left_over, first.invoice_status) == (40, 0, "partially_paid")
    second = await record(till, invoice, "60.00", "k2")
    assert second.invoice_status == "paid"
    assert await till.state(invoice) == ("paid", 100)
    assert await till.value("SELECT paid_date FROM invoices WHERE id = $1", invoice) == DUE
    types = await till.fetch("SELECT convert_from(value, 'UTF8')::jsonb ->> 'type' FROM billing_outbox")
    assert types == [("tallystick.invoice.paid.v1",)], "it is announced once, when all of it is paid"


async def test_a_payment_is_recorded_once_for_a_key(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    first, again = await record(till, invoice, "40"), await record(till, invoice, "40.00")
    assert (first.new, again.new, first.payment.id) == (True, False, again.payment.id)
    assert await till.state(invoice) == ("partially_paid", 40)
    with pytest.raises(PaymentRefused, match=r"the key 'k1' has recorded 40 USD already"):
        await record(till, invoice, "41")
    assert await till.value("SELECT count(*) FROM payments") == 1


async def test_what_is_paid_too_much_stays_with_the_customer_and_pays_the_next_invoice(till: Till) -> None:
    user = await till.customer()
    first, second = await till.invoice(user), await till.invoice(user, "50.00")
    paid = await record(till, first, "130")
    assert (paid.allocated, paid.left_over, paid.invoice_status) == (100, 30, "paid")
    async with transaction(till.billing) as connection:
        await begin(connection, user)
        assert await apply_leftovers(connection, second, at=DUE) == 30
    assert await till.state(second) == ("partially_paid", 30)
    assert await till.value("SELECT allocated_amount FROM payments") == 130


async def test_a_cancelled_invoice_gives_its_money_back_to_the_customer(till: Till) -> None:
    user = await till.customer()
    first, second = await till.invoice(user), await till.invoice(user, "70.00")
    await record(till, first, "60")
    async with transaction(till.billing) as connection:
        await till.pool.execute("UPDATE invoices SET status = 'cancelled' WHERE id = $1", first)
        assert await refresh_invoice(connection, first, at=DUE) == "cancelled"
        await begin(connection, user)
        await apply_leftovers(connection, second, at=DUE)
    assert await till.state(first) == ("cancelled", 0)
    assert await till.state(second) == ("partially_paid", 60)


async def test_a_credit_note_lowers_what_is_to_pay(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    await record(till, invoice, "80")
    await till.pool.execute("UPDATE invoices SET amount_credited = 30 WHERE id = $1", invoice)
    async with transaction(till.billing) as connection:
        assert await refresh_invoice(connection, invoice, at=DUE) == "paid"
    assert await till.state(invoice) == ("paid", 70), "10 are taken off again: they are the customer's"
    assert await till.value("SELECT amount - allocated_amount FROM payments") == 10


@pytest.mark.parametrize(
    ("amount", "currency", "message"),
    [
        ("10.001", "USD", r"10\.001 USD has too many digits: USD has 2 after the point"),
        ("0", "USD", "cannot be paid"),
        ("-5", "USD", "cannot be paid"),
        ("NaN", "USD", "cannot be paid"),
        ("1e12", "USD", "cannot be paid"),
        ("10", "EUR", "is in USD: 10 EUR cannot pay it"),
    ],
)
async def test_what_cannot_be_recorded(till: Till, amount: str, currency: str, message: str) -> None:
    invoice = await till.invoice(await till.customer())
    with pytest.raises((AmountRefused, PaymentRefused), match=message):
        await record(till, invoice, amount, currency=currency)
    assert await till.value("SELECT count(*) FROM payments") == 0
    assert await till.value("SELECT count(*) FROM billing_history") == 0


async def test_an_unknown_or_cancelled_invoice_is_not_paid(till: Till) -> None:
    with pytest.raises(UnknownInvoice, match="there is no invoice"):
        await record(till, uuid7(), "10")
    invoice = await till.invoice(await till.customer())
    await till.pool.execute("UPDATE invoices SET status = 'cancelled' WHERE id = $1", invoice)
    with pytest.raises(PaymentRefused, match="is cancelled: it cannot be paid"):
        await record(till, invoice, "10")


async def test_history_and_audit_are_written_with_the_payment(till: Till) -> None:
    """By the trigger audit_payment."""
    user = await till.customer()
    invoice = await till.invoice(user)
    async with transaction(till.billing) as connection:
        await connection.execute("SELECT set_config('tallystick.actor', 'ada', true)")
        await record_payment(
            connection, invoice, Decimal(100), "USD", provider="manual", reference="x", paid_at=DUE, idempotency_key="k"
        )
    history = "SELECT user_id, amount, currency, status, invoice_id FROM billing_history"
    assert await till.fetch(history) == [(user, 100, "USD", "completed", invoice)]
    audit = "SELECT actor, action, user_id, after ->> 'amount' FROM audit_logs WHERE resource_type = 'payment'"
    assert await till.fetch(audit) == [("ada", "payment.completed", user, "100")]


async def test_nothing_pays_more_than_came_or_more_than_is_asked_for(till: Till) -> None:
    invoice = await till.invoice(await till.customer())
    await record(till, invoice, "40")
    for statement, constraint in (
        ("UPDATE payments SET allocated_amount = 41", "allocated_within_payment"),
        ("UPDATE invoices SET amount_paid = 100.01", "amount_paid_is_whole|amount_paid_within_total"),
        ("UPDATE payments SET refunded_amount = 41", "refund_within_payment"),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=constraint):
            await till.pool.execute(statement)
