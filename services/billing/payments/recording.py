"""Records money that came: by a person, or by a line of a bank statement. In the caller's transaction, once per key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.amounts import amount_text
from services.billing.payments import store
from services.billing.payments.invoice_state import find_invoice, lock_invoice
from services.billing.payments.provider import ProviderName
from services.billing.payments.reports import use
from services.billing.payments.state import checked_amount
from services.billing.payments.store import SQL, Payment, as_row
from shared.errors import ConfigurationError
from shared.postgres import Connection


class PaymentRefused(ConfigurationError):
    """A payment cannot be recorded: says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A payment that was recorded, or had been (`new` False): what of it pays the invoice, and what is left over."""

    payment: Payment
    new: bool
    allocated: Decimal
    left_over: Decimal
    invoice_status: str


async def record_payment(
    connection: Connection,
    invoice_id: UUID,
    amount: Decimal,
    currency: str,
    *,
    provider: ProviderName,
    reference: str,
    paid_at: datetime,
    idempotency_key: str,
) -> Recorded:
    """Record money that came for an invoice, in the caller's transaction; once per key.

    Less than what is to pay leaves the invoice partially paid; what is more stays with the customer. Raises `PaymentRefused`,
    `AmountRefused` (too many digits), `UnknownInvoice`.
    """
    amount = checked_amount(amount, currency)
    _, user_id = await find_invoice(connection, str(invoice_id))
    await store.begin(connection, user_id)
    earlier = as_row(Payment, await connection.fetchrow(SQL["payment_of_key"], idempotency_key))
    if earlier is not None:
        _refuse_other_facts(earlier, invoice_id, amount, currency)
        return await _recorded(connection, earlier, invoice_id, new=False)
    invoice = await lock_invoice(connection, invoice_id)
    if invoice["status"] in ("draft", "cancelled"):
        raise PaymentRefused(f"invoice {invoice['number'] or invoice_id} is {invoice['status']}: it cannot be paid")
    if invoice["currency"] != currency:
        raise PaymentRefused(
            f"invoice {invoice['number']} is in {invoice['currency']}: {amount_text(amount)} {currency} cannot pay it"
        )
    made = await store.add_payment(
        connection,
        user_id=user_id,
        amount=amount,
        currency=currency,
        provider=provider,
        at=None,
        key=idempotency_key,
        invoice_id=invoice_id,
        reference=reference,
        completed_at=paid_at,
    )
    await use(connection, made, at=paid_at)
    return await _recorded(connection, made, invoice_id, new=True)


def _refuse_other_facts(earlier: Payment, invoice_id: UUID, amount: Decimal, currency: str) -> None:
    if (earlier.amount, earlier.currency) != (amount, currency) or earlier.invoice_id != invoice_id:
        raise PaymentRefused(
            f"the key '{earlier.idempotency_key}' has recorded {amount_text(earlier.amount)} {earlier.currency} already: "
            "repeat a call with the same facts, or take a new key"
        )


async def _recorded(connection: Connection, paid: Payment, invoice_id: UUID, *, new: bool) -> Recorded:
    paid, invoice = await store.payment(connection, paid.id), await lock_invoice(connection, invoice_id)
    left_over = max(Decimal(0), paid.amount - paid.allocated_amount - paid.refunded_amount)
    return Recorded(paid, new, paid.allocated_amount, left_over, invoice["status"])
