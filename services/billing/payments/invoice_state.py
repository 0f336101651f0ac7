"""The payment state of invoices: what pays them, and the status that follows."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.events import INVOICE_PAID
from services.billing.payments.state import InvoiceStatus, Owed, invoice_status
from services.billing.payments.store import SQL, Payment, announce
from shared.errors import ConfigurationError
from shared.postgres import Connection


class UnknownInvoice(ConfigurationError):
    """There is no invoice of that number or id."""


async def find_invoice(connection: Connection, invoice: str) -> tuple[UUID, UUID]:
    """Return (invoice id, user id) of an invoice by its number or id. Raises `UnknownInvoice`."""
    row = await connection.fetchrow(SQL["invoice_owner"], invoice, id_or_none(invoice))
    if row is None:
        raise UnknownInvoice(f"there is no invoice '{invoice}': give its number, like INV-2026-000001, or its id")
    return row["id"], row["user_id"]


def id_or_none(text: str) -> UUID | None:
    """Return the id that a person gave, or None where it is a name of another kind."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


async def lock_invoice(connection: Connection, invoice_id: UUID) -> Any:
    """Take an invoice for this transaction; return its row as `lock_invoice` in queries.sql has it."""
    row = await connection.fetchrow(SQL["lock_invoice"], invoice_id)
    if row is None:
        raise UnknownInvoice(f"there is no invoice {invoice_id}")
    return row


def owed(invoice: Any) -> Owed:
    """Return what a locked invoice still asks for."""
    return Owed(invoice["status"], invoice["total"], invoice["credited"], invoice["paid"])


async def refresh_invoice(connection: Connection, invoice_id: UUID, *, at: datetime) -> InvoiceStatus:
    """Let an invoice say what follows from its payments, credit notes and cancellation; return its status.

    Call it in the transaction that changed any of these. What pays more than is to be paid any more (a credit note, a void) is taken
    off and stays with the customer. When everything is paid, that is announced and the suspension that the invoice brought is lifted.
    Drafts are left alone.
    """
    invoice = await lock_invoice(connection, invoice_id)
    if invoice["status"] == "draft":
        return "draft"
    paid = await _take_off_surplus(connection, invoice)
    now = Owed(invoice["status"], invoice["total"], invoice["credited"], paid)
    status = invoice_status(now)
    if (status, paid) != (invoice["status"], invoice["paid"]):
        await connection.execute(SQL["set_invoice_state"], invoice_id, paid, status, at)
    if status == "paid" and invoice["status"] != "paid":
        await _announce_paid(connection, invoice, paid, at)
    if status in ("paid", "cancelled"):
        await _lift_suspension(connection, invoice_id, invoice["user_id"], at)
    return status


async def _take_off_surplus(connection: Connection, invoice: Any) -> Decimal:
    """Take off what pays more than the invoice asks for, from the latest payments first; return what pays it then."""
    allocations = await connection.fetch(SQL["allocations"], invoice["id"])
    paid = sum((row["amount"] for row in allocations), Decimal(0))
    asked = Decimal(0) if invoice["status"] == "cancelled" else max(Decimal(0), invoice["total"] - invoice["credited"])
    for row in allocations:
        surplus = min(row["amount"], paid - asked)
        if surplus <= 0:
            break
        await connection.execute(SQL["take_off"], row["payment_id"], invoice["id"], surplus)
        paid -= surplus
    return paid


async def _announce_paid(connection: Connection, invoice: Any, paid: Decimal, at: datetime) -> None:
    facts = {
        "invoice": str(invoice["id"]),
        "number": invoice["number"],
        "currency": invoice["currency"],
        "total": amount_text(invoice["total"]),
        "paid": amount_text(paid),
        "credited": amount_text(invoice["credited"]) if invoice["credited"] else None,
    }
    await announce(connection, INVOICE_PAID, invoice["user_id"], at, facts)


async def _lift_suspension(connection: Connection, invoice_id: UUID, user_id: UUID, at: datetime) -> None:
    if await connection.fetchval(SQL["lift_suspension"], invoice_id, at) is not None:
        await connection.fetch(SQL["reactivate"], user_id)


async def allocate(connection: Connection, paid: Payment, invoice_id: UUID, limit: Decimal, *, at: datetime) -> Decimal:
    """Let a completed payment pay an invoice, at most `limit` of it; return how much that is. Its customer must be locked."""
    invoice = await lock_invoice(connection, invoice_id)
    amount = min(limit, owed(invoice).outstanding)
    if invoice["currency"] != paid.currency or amount <= 0:
        return Decimal(0)
    await connection.execute(SQL["allocate"], paid.id, invoice_id, amount, at)
    await refresh_invoice(connection, invoice_id, at=at)
    return amount


async def apply_leftovers(connection: Connection, invoice_id: UUID, *, at: datetime) -> Decimal:
    """Let what earlier payments of the customer left over pay an invoice; return how much that is. The customer must be locked."""
    invoice = await lock_invoice(connection, invoice_id)
    wanted, used = owed(invoice).outstanding, Decimal(0)
    for row in await connection.fetch(SQL["leftovers"], invoice["user_id"], invoice["currency"]):
        amount = min(row["amount"], row["available"] - used, wanted - used)
        if amount > 0:
            await connection.execute(SQL["allocate"], row["id"], invoice_id, amount, at)
            used += amount
    if used:
        await refresh_invoice(connection, invoice_id, at=at)
    return used
