"""Invoices and credit notes for the tests of documents and exports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.billing.invoices.document import CreditNoteDocument, DocumentLine, InvoiceDocument, Party, TaxAmount
from shared.money import round_money

ISSUED = datetime(2026, 11, 3, 9, 30, 12, 345_678, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
SELLER = Party(
    name="Gateway GmbH", line1="Torstraße 1", postal_code="10119", city="Berlin", country="DE", vat_id="DE136695976",
    email="billing@example.com", phone="+49 30 1234567", website="example.com", iban="DE89370400440532013000", bic="COBADEFFXXX",
    bank_name="Musterbank", registration="HRB 12345",
)  # fmt: skip
BUYER = Party(
    name="Ångström & Søn – شركة", contact="Jane <b>Müller</b>", line1="12 Rue de la Paix", postal_code="75002", city="Paris",
    country="FR", vat_id="FR40303265045", buyer_reference="PO-4711",
)  # fmt: skip


def line(
    position: int, quantity: str, unit_price: str, *, kind: str = "usage", rate: str = "0.19", **facts: Any
) -> DocumentLine:
    exact = Decimal(quantity) * Decimal(unit_price)
    fixed: dict[str, Any] = {
        "description": "gpt-4o: input tokens (balanced)", "unit": "token", "tax_category": "S", "period_start": OCTOBER[0],
        "period_end": OCTOBER[1], "component": "input", "dimensions": {"model_id": "gpt-4o", "power_level": "balanced", "byok": False},
    }  # fmt: skip
    return DocumentLine(
        id=UUID(int=position), position=position, kind=kind, quantity=Decimal(quantity), unit_price=Decimal(unit_price),
        exact_amount=exact, amount=round_money(exact, "EUR"), tax_rate=Decimal(rate), **{**fixed, **facts},
    )  # fmt: skip


LINES = (
    line(
        1, "1", "99", kind="fee", unit="fee", component=None, dimensions={}, description="Premium, from 1 October 2026"
    ),
    line(2, "12345678", "0.0000025"),
    line(3, "-1000", "0.00001", kind="adjustment"),
    line(4, "1", "-15.33", kind="discount", unit="discount", component=None, dimensions={}, description="Coupon, 10 %"),
)


def invoice(*, lines: tuple[DocumentLine, ...] = LINES, **facts: Any) -> InvoiceDocument:
    subtotal = sum((each.amount for each in lines), Decimal(0))
    rate = lines[0].tax_rate
    tax = round_money(subtotal * rate, "EUR")
    fixed: dict[str, Any] = {
        "id": UUID(int=9), "number": "INV-2026-000042", "kind": "usage", "status": "sent", "user_id": UUID(int=7), "entity": "default",
        "currency": "EUR", "language": "en", "period_start": OCTOBER[0], "period_end": OCTOBER[1], "issue_date": ISSUED,
        "due_date": ISSUED + timedelta(days=14), "paid_date": None, "payment_terms_days": 14, "seller": SELLER, "buyer": BUYER,
        "taxes": (TaxAmount(lines[0].tax_category, rate, subtotal, tax),), "amount_paid": Decimal(0), "amount_credited": Decimal(0),
    }  # fmt: skip
    return InvoiceDocument(
        lines=lines, exact_subtotal=subtotal, subtotal=subtotal, tax=tax, total=subtotal + tax, **{**fixed, **facts}
    )


def credit_note(**facts: Any) -> CreditNoteDocument:
    lines = (line(1, "1000", "0.01", invoice_line_id=UUID(int=2)),)
    subtotal = sum((each.amount for each in lines), Decimal(0))
    tax = round_money(subtotal * Decimal("0.19"), "EUR")
    fixed: dict[str, Any] = {
        "id": UUID(int=10), "number": "CN-2026-000001", "kind": "correction", "reason": "An hour was counted twice", "invoice_id": UUID(int=9),
        "invoice_number": "INV-2026-000042", "invoice_issue_date": ISSUED, "user_id": UUID(int=7), "entity": "default", "currency": "EUR",
        "language": "en", "issued_at": ISSUED + timedelta(days=30), "seller": SELLER, "buyer": BUYER, "actor": "finance",
        "taxes": (TaxAmount("S", Decimal("0.19"), subtotal, tax),),
    }  # fmt: skip
    return CreditNoteDocument(
        lines=lines, exact_subtotal=subtotal, subtotal=subtotal, tax=tax, total=subtotal + tax, **{**fixed, **facts}
    )
