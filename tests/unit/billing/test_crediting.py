"""Laws of credit notes: however an invoice is taken back in parts, they come to exactly the invoice, tax and all, and never to more."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.billing.invoices.crediting import Credited, CreditRefused, Note, take_back
from services.billing.invoices.document import DocumentLine, InvoiceDocument, Party, TaxAmount, TaxCategory
from services.billing.invoices.taxes import Tax, tax_amounts

AT = datetime(2026, 11, 3, tzinfo=UTC)
RATES: list[tuple[TaxCategory, Decimal]] = [("S", Decimal("0.19")), ("S", Decimal("0.07")), ("Z", Decimal(0))]


def invoice_of(amounts: list[int], rates: list[int], credited: Decimal = Decimal(0)) -> InvoiceDocument:
    lines = tuple(
        DocumentLine(
            id=UUID(int=n + 1), position=n + 1, kind="usage", description="x", quantity=Decimal(1), unit="request", unit_price=None,
            exact_amount=Decimal(cents) / 100, amount=Decimal(cents) / 100, tax_category=RATES[rate][0], tax_rate=RATES[rate][1],
        )
        for n, (cents, rate) in enumerate(zip(amounts, rates, strict=True))
    )  # fmt: skip
    taxes = tax_amounts([(Tax(ln.tax_category, ln.tax_rate), ln.amount) for ln in lines], "EUR")
    subtotal, tax = sum((ln.amount for ln in lines), Decimal(0)), sum((t.tax for t in taxes), Decimal(0))
    return InvoiceDocument(
        id=UUID(int=99), number="INV-1", kind="usage", status="sent", user_id=UUID(int=5), entity="default", currency="EUR", language="en",
        period_start=AT, period_end=AT, issue_date=AT, due_date=AT, paid_date=None, payment_terms_days=14, seller=Party(name="A"),
        buyer=Party(name="B"), lines=lines, taxes=taxes, exact_subtotal=subtotal, subtotal=subtotal, tax=tax, total=subtotal + tax,
        amount_paid=Decimal(0), amount_credited=credited,
    )  # fmt: skip


def with_note(credited: Credited, note: Note) -> Credited:
    """Return what has been taken back once this note is written, as the database sums it."""
    lines = dict(credited.lines)
    for line in note.lines:
        lines[line.of.id] = lines.get(line.of.id, Decimal(0)) + line.amount
    taxes = {(t.category, t.rate): t for t in credited.taxes}
    for t in note.taxes:
        before = taxes.get((t.category, t.rate), TaxAmount(t.category, t.rate, Decimal(0), Decimal(0)))
        taxes[t.category, t.rate] = TaxAmount(t.category, t.rate, before.taxable + t.taxable, before.tax + t.tax)
    return Credited(lines, list(taxes.values()))


@given(st.data())
def test_any_parts_and_then_the_rest_come_to_exactly_the_invoice(data: st.DataObject) -> None:
    amounts = data.draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=5))
    rates = data.draw(st.lists(st.integers(0, 2), min_size=len(amounts), max_size=len(amounts)))
    credited, notes = Credited(), list[Note]()
    for _ in range(data.draw(st.integers(0, 5))):
        taken = sum((n.total for n in notes), Decimal(0))
        position = data.draw(st.integers(1, len(amounts)))
        part = Decimal(data.draw(st.integers(1, 10_000))) / 100
        try:
            note = take_back(invoice_of(amounts, rates, taken), credited, {position: part})
        except CreditRefused:
            continue
        notes.append(note)
        credited = with_note(credited, note)
    taken = sum((n.total for n in notes), Decimal(0))
    invoice = invoice_of(amounts, rates, taken)
    assert taken <= invoice.total
    if taken < invoice.total:
        notes.append(take_back(invoice, credited))
    assert sum((n.total for n in notes), Decimal(0)) == invoice.total
    assert sum((n.tax for n in notes), Decimal(0)) == invoice.tax
    assert all(n.total == n.subtotal + n.tax and n.tax >= 0 for n in notes)
