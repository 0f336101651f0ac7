"""Chargebacks: what a dispute of a payment does to our books, in any order of what is told, as often as it is told.

While a dispute is open, the invoices that the payment paid are disputed, and nobody is reminded or charged for them. What the bank takes
back pays them no more: they are open again. What it reinstates pays them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.events import INVOICE_DISPUTED, PAYMENT_DISPUTED
from services.billing.payments import store
from services.billing.payments.invoice_state import allocate, refresh_invoice
from services.billing.payments.provider import DisputeReport, DisputeStatus, Funds, RefundReport
from services.billing.payments.refunding import apply_refund_report
from services.billing.payments.state import joined_dispute
from services.billing.payments.store import SQL, Payment
from shared.ids import uuid7
from shared.money import exact
from shared.postgres import Connection


async def apply_dispute_report(connection: Connection, paid: Payment, report: DisputeReport, *, at: datetime) -> bool:
    """Let our books say what is known of a dispute of `paid`, whose customer is locked; return whether anything changed.

    Raises `LookupError` for what cannot be of this payment, or takes more of it than is left.
    """
    row = await connection.fetchrow(SQL["find_dispute"], paid.provider, report.provider_dispute_id)
    if row is not None and (row["payment_id"], row["amount"], row["currency"]) != (
        paid.id,
        report.amount,
        report.currency,
    ):
        raise LookupError(
            f"it is of {amount_text(report.amount)} {report.currency}, here of {amount_text(row['amount'])} {row['currency']}"
        )
    known: tuple[DisputeStatus, Funds] = (row["status"], row["funds"]) if row else ("open", "with_us")
    status, funds = joined_dispute(known, (report.status, report.funds))
    if row is not None and (status, funds) == known:
        return False
    await connection.execute(
        SQL["note_dispute"], uuid7(), paid.id, paid.provider, report.provider_dispute_id, report.amount, report.currency, report.reason,
        status, funds, report.evidence_due_at, at,
    )  # fmt: skip
    invoices = await connection.fetch(SQL["paid_by"], paid.id)
    if funds != known[1]:
        await _move_funds(connection, paid, report, funds, invoices, at=at)
    await _mark_invoices(connection, paid, report, status, [invoice["invoice_id"] for invoice in invoices], at=at)
    await _tell(connection, paid, report, status, funds, at=at)
    return True


async def _move_funds(
    connection: Connection, paid: Payment, report: DisputeReport, funds: Funds, invoices: Sequence[Any], *, at: datetime
) -> None:
    """Book what the bank took as a chargeback, and one that it took back as failed; let invoices say what pays them then."""
    won = funds == "reinstated"
    booked = RefundReport(
        report.provider_dispute_id, report.transaction_id, report.amount, report.currency, "failed" if won else "completed",
        reason="the bank reinstated it" if won else None,
    )  # fmt: skip
    await apply_refund_report(connection, paid, booked, at=at, chargeback=report.reason)
    now = await store.payment(connection, paid.id)
    short = _missing(now) - _missing(paid)  # a refund that we gave leaves its invoice paid
    again = report.amount if won else Decimal(0)
    for invoice in invoices:
        if (back := min(invoice["amount"], short)) > 0:
            await connection.execute(SQL["take_off"], paid.id, invoice["invoice_id"], back)
            await refresh_invoice(connection, invoice["invoice_id"], at=at)
            short -= back
        if again > 0:
            again -= await allocate(connection, now, invoice["invoice_id"], again, at=at)


def _missing(paid: Payment) -> Decimal:
    """Return how much more a payment pays than is left of it."""
    with exact():
        return max(paid.allocated_amount + paid.refunded_amount - paid.amount, Decimal(0))


async def _mark_invoices(
    connection: Connection,
    paid: Payment,
    report: DisputeReport,
    status: DisputeStatus,
    invoices: Sequence[UUID],
    *,
    at: datetime,
) -> None:
    words = f"chargeback {report.provider_dispute_id}: {report.reason}"
    if status != "open":
        await connection.execute(SQL["settle_disputes"], invoices, words)
        return
    for invoice in await connection.fetch(SQL["dispute_invoices"], invoices, at, words):
        facts = {
            "invoice": str(invoice["id"]),
            "number": invoice["number"],
            "currency": invoice["currency"],
            "reason": words,
        }
        await store.announce(connection, INVOICE_DISPUTED, paid.user_id, at, facts)


async def _tell(
    connection: Connection, paid: Payment, report: DisputeReport, status: DisputeStatus, funds: Funds, *, at: datetime
) -> None:
    facts = {
        "payment": str(paid.id),
        "dispute": report.provider_dispute_id,
        "invoice": str(paid.invoice_id) if paid.invoice_id else None,
        "package": str(paid.package_id) if paid.package_id else None,
        "amount": amount_text(report.amount),
        "currency": report.currency,
        "reason": report.reason,
        "status": status,
        "funds": funds,
        "evidence_due_at": report.evidence_due_at.isoformat() if report.evidence_due_at else None,
    }
    message = f"{amount_text(report.amount)} {report.currency} of a payment are disputed at the bank: {report.reason}."
    await store.alert(
        connection,
        paid.user_id,
        "payment_disputed",
        cause=f"dispute {report.provider_dispute_id}",
        message=message,
        value=Decimal(report.amount),
        facts=facts,
    )
    await store.announce(connection, PAYMENT_DISPUTED, paid.user_id, at, facts)
