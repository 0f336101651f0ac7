"""The books of payments reconcile after all that can happen to them, and each statement fails when one of its sides is corrupted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.billing.payments.charging import charge_invoice, start_checkout
from services.billing.payments.provider import PaymentReport
from services.billing.payments.recording import record_payment
from services.billing.payments.refunds import refund_payment
from services.billing.payments.reports import apply_payment_report
from services.billing.reconciliation import reconcile
from shared.postgres import Pool, transaction
from shared.sql import Queries
from tests.integration.payment_facts import DUE, Till


@pytest.fixture
async def till(database_pool: Pool) -> Till:
    """A customer with a paid, an overpaid and a declined invoice, a bought package, and refunds of some of it."""
    till = Till(database_pool)
    user = await till.customer()
    charged, transferred, declined = [await till.invoice(user) for _ in range(3)]
    paid = await charge_invoice(till.billing, till.providers, str(charged), key="a", clock=till.clock)
    till.bank.declines = 1
    await charge_invoice(till.billing, till.providers, str(declined), key="b", clock=till.clock)
    async with transaction(till.billing) as connection:
        await record_payment(
            connection,
            transferred,
            Decimal(130),
            "USD",
            provider="manual",
            reference="x",
            paid_at=DUE,
            idempotency_key="c",
        )
    page = await start_checkout(till.billing, till.providers, user, "Starter Pack", clock=till.clock)
    async with transaction(till.billing) as connection:
        report = PaymentReport("completed", "pi_page", Decimal(10), "USD", page.payment.id)
        await apply_payment_report(connection, "stripe", report, at=DUE)
    for payment, amount in ((paid.id, "30"), (page.payment.id, "10")):
        await refund_payment(
            till.billing, till.providers, payment, Decimal(amount), reason="sorry", key=None, clock=till.clock
        )
    return till


OURS = ("invoices = payments", "payments = refunds", "packages = credits bought", "history = payments")


async def failing(till: Till) -> list[str]:
    async with till.billing.acquire() as connection:
        return [check.name for check in await reconcile(connection) if check.name.startswith(OURS) and not check.holds]


async def test_the_books_of_payments_reconcile(till: Till) -> None:
    assert await failing(till) == []
    async with till.billing.acquire() as connection:
        checks: dict[str, Any] = {check.name: check for check in await reconcile(connection)}
    assert checks["invoices = payments: USD"].left == 400, "200 of invoices, and as much of payments"
    assert checks["payments = refunds: USD"].right == 40
    assert checks["packages = credits bought: purchases"].left == 1
    assert checks["history = payments: rows"].left == 6


CORRUPTIONS = {
    "UPDATE payment_allocations SET amount = amount - 1": "paid_equals_allocations",
    "UPDATE payments SET allocated_amount = allocated_amount - 1 WHERE allocated_amount > 0": "paid_equals_allocations",
    "UPDATE payment_refunds SET amount = amount - 1": "refunded_equals_refunds",
    "UPDATE payments SET package_id = NULL": "packages_equal_purchases",
    "DELETE FROM billing_history WHERE refund_id IS NULL": "history_equals_payments",
    "UPDATE billing_history SET status = 'pending' WHERE status = 'failed'": "history_equals_payments",
}


async def test_a_corrupted_side_is_found(till: Till) -> None:
    queries = Queries.load("services.billing.reconciliation")
    for corruption, query in CORRUPTIONS.items():
        async with till.pool.acquire() as connection:
            undone = connection.transaction()
            await undone.start()
            await connection.execute(corruption)
            found = [row["differing"] for row in await connection.fetch(queries[query])]
            await undone.rollback()
        assert any(found), corruption
    assert await failing(till) == []
