"""What payments, refunds and invoices become (pure). Statuses are joined, never set: so any order and repetition ends alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, TypeVar

from services.billing.amounts import amount_text
from services.billing.payments.provider import DisputeStatus, Funds, PaymentStatus, RefundStatus
from shared.errors import ConfigurationError
from shared.money import exact, minor_unit

InvoiceStatus = Literal["draft", "sent", "partially_paid", "paid", "overdue", "cancelled"]
Status = TypeVar("Status", PaymentStatus, RefundStatus)

PAYMENT_RANK: Final[dict[PaymentStatus, int]] = {
    "pending": 0,
    "processing": 1,
    "failed": 2,
    "completed": 3,
    "refunded": 4,
}
"""Completed is above failed: a customer may try again with another card, and money that came is never forgotten for a late failure."""
REFUND_RANK: Final[dict[RefundStatus, int]] = {"pending": 0, "completed": 1, "failed": 2}
"""Failed is above completed: a bank may return a refund days after it was reported as done."""
DISPUTE_RANK: Final[dict[DisputeStatus, int]] = {"open": 0, "won": 1, "lost": 2}
FUNDS_RANK: Final[dict[Funds, int]] = {"with_us": 0, "withdrawn": 1, "reinstated": 2}
LARGEST: Final = Decimal(10) ** 12


class AmountRefused(ConfigurationError):
    """An amount is not one that can be paid or given back; says why. Nothing was changed."""


def joined_payment(known: PaymentStatus, told: PaymentStatus) -> PaymentStatus:
    """Return the status of a payment of which `known` is stored and `told` is reported."""
    return max(known, told, key=PAYMENT_RANK.__getitem__)


def joined_refund(known: RefundStatus, told: RefundStatus) -> RefundStatus:
    """Return the status of a refund of which `known` is stored and `told` is reported."""
    return max(known, told, key=REFUND_RANK.__getitem__)


def joined_dispute(
    known: tuple[DisputeStatus, Funds], told: tuple[DisputeStatus, Funds]
) -> tuple[DisputeStatus, Funds]:
    """Return how a dispute stands of which `known` is stored and `told` is reported. Who lost has no money, unless it was reinstated."""
    status = max(known[0], told[0], key=DISPUTE_RANK.__getitem__)
    funds = max(known[1], told[1], key=FUNDS_RANK.__getitem__)
    return status, "withdrawn" if status == "lost" and funds == "with_us" else funds


def checked_amount(amount: Decimal, currency: str) -> Decimal:
    """Return an amount that can be paid in `currency`. Raises `AmountRefused`: not above zero, without limit, or with too many digits."""
    if not amount.is_finite() or amount <= 0 or amount >= LARGEST:
        raise AmountRefused(f"{amount} {currency} cannot be paid: give an amount above zero and below {LARGEST:,.0f}")
    if amount % minor_unit(currency):
        digits = -int(minor_unit(currency).as_tuple().exponent)
        raise AmountRefused(
            f"{amount_text(amount)} {currency} has too many digits: {currency} has {digits} after the point"
        )
    return amount


@dataclass(frozen=True, slots=True)
class Owed:
    """An invoice's side of a payment."""

    status: InvoiceStatus
    total: Decimal
    credited: Decimal
    paid: Decimal

    @property
    def outstanding(self) -> Decimal:
        """What is still to be paid; never below zero."""
        if self.status in ("draft", "cancelled"):
            return Decimal(0)
        return max(Decimal(0), self.total - self.credited - self.paid)


def invoice_status(owed: Owed) -> InvoiceStatus:
    """Return the status that follows from what was paid and credited. Overdue stays until nothing is to pay; drafts are not judged."""
    if owed.status in ("draft", "cancelled"):
        return owed.status
    if owed.outstanding == 0:
        return "paid"
    if owed.status == "overdue":
        return "overdue"
    return "partially_paid" if owed.paid > 0 else "sent"


def refundable(amount: Decimal, refunds: Iterable[tuple[Decimal, RefundStatus]]) -> Decimal:
    """Return what of a payment can still be given back: refunds that are under way count, those that failed do not."""
    with exact():
        return amount - sum((refund for refund, status in refunds if status != "failed"), Decimal(0))
