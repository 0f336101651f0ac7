"""The rows of payments and what is written beside each. Every function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from services.billing.events import EventType, billing_event
from services.billing.payments.provider import PaymentStatus, ProviderName, RefundStatus
from shared.ids import uuid7
from shared.outbox import Outbox
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.payments")
OUTBOX = Outbox("billing_outbox")
ACTOR: Final = "billing"

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Payment:
    """A row of payments."""

    id: UUID
    user_id: UUID
    invoice_id: UUID | None
    package_id: UUID | None
    amount: Decimal
    currency: str
    status: PaymentStatus
    method_id: UUID | None
    provider: ProviderName
    provider_transaction_id: str | None
    provider_checkout_id: str | None
    idempotency_key: str | None
    reference: str | None
    failure_reason: str | None
    refunded_amount: Decimal
    allocated_amount: Decimal
    processed_at: datetime | None
    created_at: datetime

    @property
    def is_completed(self) -> bool:
        """Whether its money came, whatever was given back since."""
        return self.status in ("completed", "refunded")


@dataclass(frozen=True, slots=True)
class Refund:
    """A row of payment_refunds."""

    id: UUID
    payment_id: UUID
    amount: Decimal
    currency: str
    status: RefundStatus
    reason: str
    failure_reason: str | None
    provider: ProviderName
    provider_refund_id: str | None
    idempotency_key: str | None
    credits_due: Decimal
    credits_taken: Decimal
    kind: Literal["refund", "chargeback"]
    created_at: datetime


def as_row(kind: type[Row], record: Mapping[str, Any] | None) -> Row | None:
    """Return what was fetched as `kind`, which names some of its columns; None for nothing."""
    return kind(**{field.name: record[field.name] for field in fields(kind)}) if record is not None else None  # type: ignore[arg-type]


async def begin(connection: Connection, user_id: UUID) -> None:
    """Take the lock of a customer, and say for the audit trail who acts unless somebody was named."""
    await connection.execute(SQL["act_as"], ACTOR)
    await connection.execute(SQL["lock_customer"], user_id)


async def act_as(connection: Connection, actor: str | None) -> None:
    """Let the audit trail name a person, in this transaction; before `begin`, which names the service."""
    if actor:
        await connection.execute(SQL["act_as"], actor)


async def payment(connection: Connection, payment_id: UUID) -> Payment:
    """Return a payment that exists."""
    found = as_row(Payment, await connection.fetchrow(SQL["payment"], payment_id))
    if found is None:
        raise LookupError(f"there is no payment {payment_id}")
    return found


async def add_payment(
    connection: Connection,
    *,
    user_id: UUID,
    amount: Decimal,
    currency: str,
    provider: ProviderName,
    at: datetime | None,
    key: str | None,
    invoice_id: UUID | None = None,
    package_id: UUID | None = None,
    method_id: UUID | None = None,
    reference: str | None = None,
    completed_at: datetime | None = None,
) -> Payment:
    """Store a payment that is asked for at a time, or one that has come already (`completed_at`), and tell its customer."""
    row = await connection.fetchrow(
        SQL["begin_payment"], uuid7(), user_id, invoice_id, package_id, amount, currency, provider, method_id, key, reference, at,
        completed_at,
    )  # fmt: skip
    made = as_row(Payment, row)
    assert made is not None  # noqa: S101 (it was just inserted)
    await tell_payment(connection, made)
    return made


async def tell_payment(connection: Connection, paid: Payment) -> None:
    """Let the customer's history say what became of a payment. What was given back has lines of its own."""
    status = "completed" if paid.is_completed else "failed" if paid.status == "failed" else "pending"
    words = "Credit package" if paid.package_id else "Invoice" if paid.invoice_id else "Payment"
    await connection.execute(
        SQL["tell_payment"], paid.id, paid.user_id, paid.amount, paid.currency, status, words, paid.invoice_id, uuid7()
    )


async def tell_refund(connection: Connection, paid: Payment, refund: Refund) -> None:
    """Let the customer's history say what became of a refund, or of a chargeback."""
    status = "refunded" if refund.status == "completed" else refund.status
    words = f"{refund.kind.capitalize()}: {refund.reason}"
    await connection.execute(
        SQL["tell_refund"], paid.id, paid.user_id, refund.amount, refund.currency, status, words,
        paid.invoice_id, refund.id, uuid7(),
    )  # fmt: skip


async def announce(
    connection: Connection, kind: EventType, user_id: UUID, at: datetime, data: Mapping[str, Any]
) -> None:
    """Put an event into the outbox; what is None is left out."""
    facts = {name: value for name, value in data.items() if value is not None}
    await OUTBOX.enqueue(connection, [billing_event(kind, user_id, at, facts)])


async def alert(
    connection: Connection,
    user_id: UUID,
    kind: str,
    *,
    cause: str,
    message: str,
    value: Decimal,
    facts: Mapping[str, Any],
) -> None:
    """Tell a user once about a cause."""
    await connection.execute(
        SQL["raise_alert"], uuid7(), user_id, kind, cause, value, message, json.dumps(dict(facts), default=str)
    )
