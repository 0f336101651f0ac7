"""What is on an invoice and on a credit note (pure): everything that a document, an export or a payment needs to know of one.

Parties are as they were when it was issued. Amounts are Decimals in `currency`; rates are fractions (0.19).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

Language = Literal["en", "de", "fr"]
TaxCategory = Literal["S", "Z", "E", "AE", "O"]
"""EN 16931 (UNCL 5305): S standard rate, Z zero rate, E exempt, AE reverse charge, O outside the scope of tax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who issues an invoice or receives it. A seller may have a bank account and a footer, a buyer a reference of its own."""

    name: str
    contact: str | None = None
    line1: str | None = None
    line2: str | None = None
    postal_code: str | None = None
    city: str | None = None
    region: str | None = None
    country: str | None = None
    vat_id: str | None = None
    tax_number: str | None = None
    registration: str | None = None
    email: str | None = None
    phone: str | None = None
    website: str | None = None
    account_holder: str | None = None
    bank_name: str | None = None
    iban: str | None = None
    bic: str | None = None
    footer: str | None = None
    buyer_reference: str | None = None


@dataclass(frozen=True, slots=True)
class TaxAmount:
    """Tax of one category and rate: `tax` on `taxable`, both in whole minor units. `reason`: why there is none, where there is none."""

    category: TaxCategory
    rate: Decimal
    taxable: Decimal
    tax: Decimal
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """A line as issued: `quantity` × `unit_price` is `exact_amount`, `amount` that in whole minor units, net of tax.

    Of a credit note, amounts are what is given back, `invoice_line_id` is the line that it corrects, and `reduced` what more was asked
    for and had been given back already by corrections of its usage.
    """

    id: UUID
    position: int
    kind: str
    description: str
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    exact_amount: Decimal
    amount: Decimal
    tax_category: TaxCategory
    tax_rate: Decimal
    subscription_id: UUID | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    component: str | None = None
    price_id: UUID | None = None
    charge_key: str | None = None
    usage_line_id: UUID | None = None
    event_count: int = 0
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None
    dimensions: dict[str, Any] = field(default_factory=dict)
    invoice_line_id: UUID | None = None
    reduced: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDocument:
    """An invoice, whole. A draft has no number and no dates; its period is `[period_start, period_end)`."""

    id: UUID
    number: str | None
    kind: str
    status: str
    user_id: UUID
    entity: str
    currency: str
    language: Language
    period_start: datetime
    period_end: datetime
    issue_date: datetime | None
    due_date: datetime | None
    paid_date: datetime | None
    payment_terms_days: int | None
    seller: Party
    buyer: Party
    lines: tuple[DocumentLine, ...]
    taxes: tuple[TaxAmount, ...]
    exact_subtotal: Decimal
    subtotal: Decimal
    tax: Decimal
    total: Decimal
    amount_paid: Decimal
    amount_credited: Decimal
    disputed_at: datetime | None = None
    dispute_reason: str | None = None
    cancelled_at: datetime | None = None
    cancel_reason: str | None = None
    rebilled: bool = False
    credit_notes: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def amount_due(self) -> Decimal:
        """What is still to be paid."""
        return self.total - self.amount_credited - self.amount_paid


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNoteDocument:
    """A credit note, whole. Amounts are what is given back: positive, but for lines that take back a discount."""

    id: UUID
    number: str
    kind: str
    reason: str
    invoice_id: UUID
    invoice_number: str
    invoice_issue_date: datetime
    user_id: UUID
    entity: str
    currency: str
    language: Language
    issued_at: datetime
    seller: Party
    buyer: Party
    lines: tuple[DocumentLine, ...]
    taxes: tuple[TaxAmount, ...]
    exact_subtotal: Decimal
    subtotal: Decimal
    tax: Decimal
    total: Decimal
    actor: str
    metadata: dict[str, Any] = field(default_factory=dict)
