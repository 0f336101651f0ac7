"""What questions about invoices are answered with. They mirror services/billing/invoices/document.py."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from services.api.fields import Answer, Exact, Instant

Status = Literal["draft", "sent", "partially_paid", "paid", "overdue", "cancelled"]


class FromDocument(Answer):
    """An answer that is made from a document of billing, by the names of its fields."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class InvoiceRow(Answer):
    """An invoice in a list."""

    id: UUID
    number: str | None = Field(description="Null of a draft.")
    user_id: UUID
    kind: str
    status: Status
    currency: str
    period_start: Instant
    period_end: Instant = Field(description="Not part of the period.")
    issue_date: Instant | None
    due_date: Instant | None
    paid_date: Instant | None
    subtotal: Exact
    tax: Exact
    total: Exact
    amount_paid: Exact
    amount_credited: Exact
    amount_due: Exact
    disputed_at: Instant | None
    created_at: Instant


class CreditNoteRow(Answer):
    """A credit note in a list. Amounts are what is given back."""

    id: UUID
    number: str
    user_id: UUID
    kind: str
    reason: str
    invoice_id: UUID
    invoice_number: str
    currency: str
    subtotal: Exact
    tax: Exact
    total: Exact
    issued_at: Instant


class Party(FromDocument):
    """Who issues an invoice or receives it, as it was when it was issued."""

    name: str
    contact: str | None
    line1: str | None
    line2: str | None
    postal_code: str | None
    city: str | None
    region: str | None
    country: str | None
    vat_id: str | None
    tax_number: str | None
    registration: str | None
    email: str | None
    phone: str | None
    website: str | None
    account_holder: str | None
    bank_name: str | None
    iban: str | None
    bic: str | None
    footer: str | None
    buyer_reference: str | None


class TaxAmount(FromDocument):
    """Tax of one category (EN 16931) and rate; `reason`: why there is none."""

    category: str
    rate: Exact
    taxable: Exact
    tax: Exact
    reason: str | None


class Line(FromDocument):
    """A line as issued: quantity × unit_price is exact_amount, amount is that in whole minor units, net of tax."""

    id: UUID
    position: int
    kind: str
    description: str
    quantity: Exact
    unit: str
    unit_price: Exact | None
    exact_amount: Exact
    amount: Exact
    tax_category: str
    tax_rate: Exact
    subscription_id: UUID | None
    period_start: Instant | None
    period_end: Instant | None
    component: str | None
    price_id: UUID | None
    event_count: int = Field(description="How many usage events are behind it: `/explain` names them.")
    first_event_at: Instant | None
    last_event_at: Instant | None
    dimensions: dict[str, Any]
    invoice_line_id: UUID | None = Field(description="Of a credit note: the line that it takes back.")


class Document(FromDocument):
    """What invoices and credit notes have in common."""

    id: UUID
    kind: str
    user_id: UUID
    entity: str
    currency: str
    language: str
    seller: Party
    buyer: Party
    lines: list[Line]
    taxes: list[TaxAmount]
    exact_subtotal: Exact
    subtotal: Exact
    tax: Exact
    total: Exact


class Invoice(Document):
    """An invoice, whole. A draft has no number and no dates."""

    number: str | None
    status: Status
    period_start: Instant
    period_end: Instant
    issue_date: Instant | None
    due_date: Instant | None
    paid_date: Instant | None
    payment_terms_days: int | None
    amount_paid: Exact
    amount_credited: Exact
    amount_due: Exact
    disputed_at: Instant | None
    dispute_reason: str | None
    cancelled_at: Instant | None
    cancel_reason: str | None
    credit_notes: list[str] = Field(description="Their numbers.")


class CreditNote(Document):
    """A credit note, whole. Amounts are what is given back: positive, but for lines that take back a discount."""

    number: str
    reason: str
    invoice_id: UUID
    invoice_number: str
    invoice_issue_date: Instant
    issued_at: Instant


class CurrentCost(Answer):
    """What the running period would be invoiced at now, in one currency, and what it is likely to come to."""

    currency: str
    subtotal: Exact
    tax: Exact
    total: Exact
    credit_notes: Exact = Field(description="What would be given back by credit notes at the same time, with tax.")
    forecast: Exact | None = Field(description="Of the whole period, net of tax; null when it is too early to say.")
    method: str = Field(description="How the forecast is made.")
    lines: list[Line]


class Current(Answer):
    """The running period. There is no item of a currency in which nothing would be invoiced."""

    user_id: UUID
    period_start: Instant
    period_end: Instant
    as_of: Instant
    items: list[CurrentCost]
