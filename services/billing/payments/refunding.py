"""What a refund does to our books: the payment says what was given back, and a package's credits are taken back."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal

import asyncpg

from services.billing.amounts import amount_text
from services.billing.credits.purchases import take_back_refunded
from services.billing.events import PAYMENT_REFUNDED
from services.billing.payments import store
from services.billing.payments.provider import RefundReport
from services.billing.payments.state import joined_refund, refundable
from services.billing.payments.store import SQL, Payment, Refund, as_row
from shared.ids import uuid7
from shared.postgres import Connection

INSUFFICIENT_CREDITS = "TS001"


class TooMuch(LookupError):
    """A refund of more than is left of its payment."""


async def apply_refund_report(
    connection: Connection, paid: Payment, report: RefundReport, *, at: datetime, chargeback: str | None = None
) -> bool:
    """Let our books say what is known of a refund of `paid`, whose customer is locked; return whether anything changed.

    `chargeback`: it is none that we gave, but what the bank took back, for this reason.

    Raises `TooMuch` for a refund that nobody here asked for and that the payment has no room for.
    """
    row = await connection.fetchrow(SQL["find_refund"], paid.provider, report.refund_id, report.provider_refund_id)
    known = as_row(Refund, row)
    if known is None:
        known = await _made_elsewhere(connection, paid, report, at=at, chargeback=chargeback)
    elif (known.payment_id, known.amount, known.currency) != (paid.id, report.amount, report.currency):
        raise TooMuch(f"it is of {report.amount} {report.currency}, here of {known.amount} {known.currency}")
    status = joined_refund(known.status, report.status)
    changed = as_row(
        Refund,
        await connection.fetchrow(
            SQL["change_refund"], known.id, status, report.provider_refund_id, report.reason if status == "failed" else None, at
        ),
    )  # fmt: skip
    assert changed is not None  # noqa: S101 (it is locked)
    await store.tell_refund(connection, paid, changed)
    if status == known.status:
        return False
    now = as_row(Payment, await connection.fetchrow(SQL["sum_refunds"], paid.id))
    if now is not None and paid.package_id:
        await _settle_credits(connection, now, changed, was=known)
    if status == "completed" and chargeback is None:
        await _announce(connection, paid, changed, at=at)
    return True


async def _made_elsewhere(
    connection: Connection, paid: Payment, report: RefundReport, *, at: datetime, chargeback: str | None
) -> Refund:
    """Store a refund that was made at the provider, or a chargeback."""
    refunds = await connection.fetch(SQL["refunds_of"], paid.id)
    room = refundable(paid.amount, [(refund["amount"], refund["status"]) for refund in refunds])
    if report.status != "failed" and report.amount > room:
        raise TooMuch(
            f"{amount_text(report.amount)} {report.currency} were given back, of which {amount_text(room)} are left"
        )
    made = as_row(
        Refund,
        await connection.fetchrow(
            SQL["begin_refund"], uuid7(), paid.id, report.amount, report.currency, chargeback or f"made at {paid.provider}",
            paid.provider, report.provider_refund_id, None, at, "chargeback" if chargeback else "refund",
        ),
    )  # fmt: skip
    assert made is not None  # noqa: S101 (it was just inserted)
    await store.tell_refund(connection, paid, made)
    return made


async def _settle_credits(connection: Connection, paid: Payment, refund: Refund, *, was: Refund) -> None:
    """Take back the credits that the refund's share had bought, as far as they are there; give them again if the refund fails."""
    if refund.status == "completed":
        due, taken = await _take_back(connection, paid, refund)
        await connection.execute(SQL["note_credits"], refund.id, due, taken)
    elif was.status == "completed" and refund.credits_taken:
        await connection.fetchval(
            SQL["post_credits"],
            paid.user_id,
            refund.credits_taken,
            f"refund failed:{refund.id}",
            paid.id,
            "Refund failed",
        )
        await connection.execute(SQL["note_credits"], refund.id, Decimal(0), Decimal(0))


async def _take_back(connection: Connection, paid: Payment, refund: Refund) -> tuple[Decimal, Decimal]:
    """Return (credits due, credits taken): all, or what is left of them where some are used already."""
    key = f"refund:{refund.id}"
    try:
        async with connection.transaction():
            back = await take_back_refunded(connection, paid.id, key)
            return back.credits, back.credits
    except asyncpg.PostgresError as error:
        if error.sqlstate != INSUFFICIENT_CREDITS:
            raise
        told = json.loads(error.detail or "{}", parse_float=Decimal, parse_int=Decimal)
    due, left = told["needed"], told["available"]
    if left > 0:
        await connection.fetchval(
            SQL["post_credits"], paid.user_id, -left, key, paid.id, "Refund, as far as credits are left"
        )
    return due, left


async def _announce(connection: Connection, paid: Payment, refund: Refund, *, at: datetime) -> None:
    facts = {
        "payment": str(paid.id),
        "refund": str(refund.id),
        "invoice": str(paid.invoice_id) if paid.invoice_id else None,
        "package": str(paid.package_id) if paid.package_id else None,
        "amount": amount_text(refund.amount),
        "currency": refund.currency,
        "reason": refund.reason,
    }
    await store.announce(connection, PAYMENT_REFUNDED, paid.user_id, at, facts)
