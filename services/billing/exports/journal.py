"""A journal for accounting (pure): what was billed, paid and used up as entries of double-entry bookkeeping.

Each entry is of one document and one currency, and its debits equal its credits. Credits bought ahead are a debt to the customer until
they are used: then they become revenue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final, Literal
from uuid import UUID

from services.billing.invoices.document import CreditNoteDocument, InvoiceDocument
from shared.money import exact, round_money

Account = Literal[
    "receivables", "bank", "usage_revenue", "fee_revenue", "discounts", "vat", "prepayments", "credits_revenue"
]
ACCOUNTS: Final[Mapping[Account, str]] = {
    "receivables": "1400",
    "bank": "1200",
    "usage_revenue": "8400",
    "fee_revenue": "8410",
    "discounts": "8730",
    "vat": "1776",
    "prepayments": "1718",
    "credits_revenue": "8420",
}
"""Accounts of the German chart SKR 03 where nothing else is said."""
_REVENUE: Final[Mapping[str, Account]] = {
    "usage": "usage_revenue",
    "overage": "usage_revenue",
    "adjustment": "usage_revenue",
    "discount": "discounts",
    "credit": "discounts",
    "carried": "receivables",
}
"""Where a line belongs, by its kind; others are fees. What is carried from an earlier document was revenue there."""


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of an entry; `amount` is positive for a debit and negative for a credit, in whole minor units of `currency`."""

    booked_on: date
    document: str
    account: Account
    amount: Decimal
    currency: str
    customer: UUID
    text: str


@dataclass(frozen=True, slots=True)
class Money:
    """Money that came in (positive) or was paid back (negative): for invoices as far as `allocated`, else ahead of usage."""

    id: UUID
    booked_on: date
    amount: Decimal
    allocated: Decimal
    currency: str
    customer: UUID
    text: str


@dataclass(frozen=True, slots=True)
class Burned:
    """Credits of a bought grant that were used: `used` credits in all up to and with that day, `before` until the day before.

    The grant's `credits` were bought for `price`.
    """

    grant: UUID
    booked_on: date
    before: Decimal
    used: Decimal
    credits: Decimal
    price: Decimal
    currency: str
    customer: UUID


def invoice_postings(document: InvoiceDocument | CreditNoteDocument) -> Iterator[Posting]:
    """Yield the entry of an issued invoice, or of a credit note, which is its reverse."""
    is_note = isinstance(document, CreditNoteDocument)
    issued = document.issued_at if isinstance(document, CreditNoteDocument) else document.issue_date
    if issued is None or document.number is None:
        return
    sums: dict[Account, Decimal] = {"receivables": document.total, "vat": -document.tax}
    with exact():
        for line in document.lines:
            account = _REVENUE.get(line.kind, "fee_revenue")
            sums[account] = sums.get(account, Decimal(0)) - line.amount
    for account, amount in sums.items():
        if amount:
            yield Posting(
                issued.date(), document.number, account, -amount if is_note else amount, document.currency, document.user_id,
                document.buyer.name,
            )  # fmt: skip


def money_postings(money: Money) -> Iterator[Posting]:
    """Yield the entry of a payment or a refund."""
    with exact():
        sums: dict[Account, Decimal] = {
            "bank": money.amount,
            "receivables": -money.allocated,
            "prepayments": money.allocated - money.amount,
        }
    for account, amount in sums.items():
        if amount:
            yield Posting(money.booked_on, str(money.id), account, amount, money.currency, money.customer, money.text)


def burned_postings(burned: Burned) -> Iterator[Posting]:
    """Yield the entry of a day on which bought credits were used: rounded so that all days of a grant sum to its price."""
    with exact():
        until = round_money_share(burned.price, burned.used, burned.credits, burned.currency)
        earned = until - round_money_share(burned.price, burned.before, burned.credits, burned.currency)
    if earned:
        document = f"{burned.grant}/{burned.booked_on}"
        sides: dict[Account, Decimal] = {"prepayments": earned, "credits_revenue": -earned}
        for account, amount in sides.items():
            yield Posting(
                burned.booked_on, document, account, amount, burned.currency, burned.customer, "Prepaid credits used"
            )


def round_money_share(price: Decimal, part: Decimal, whole: Decimal, currency: str) -> Decimal:
    """Return the share of a price, in whole minor units."""
    return round_money(price, currency) if part == whole else round_money(_ratio(price * part, whole), currency)


def _ratio(numerator: Decimal, denominator: Decimal) -> Decimal:
    """Divide to a hundred digits: more than rounding to cents can ever see."""
    return Context(prec=100, rounding=ROUND_HALF_UP).divide(numerator, denominator)


def unbalanced(postings: Iterable[Posting]) -> list[str]:
    """Return the documents whose entry does not sum to nothing: there must be none."""
    sums: dict[tuple[str, str], Decimal] = {}
    with exact():
        for posting in postings:
            key = posting.document, posting.currency
            sums[key] = sums.get(key, Decimal(0)) + posting.amount
    return [document for (document, _), amount in sums.items() if amount]
