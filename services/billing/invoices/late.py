"""Usage that was taken back after its invoice, for customers who want credit notes for that instead of adjustments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.customer import Customer
from services.billing.invoices.corrections import SQL, credited, write_note
from services.billing.invoices.crediting import Credited, CreditRefused, NoteLine, make_note
from services.billing.invoices.document import DocumentLine, InvoiceDocument
from services.billing.invoices.lines import Line, UsageGroup, usage_lines
from services.billing.invoices.reading import read_invoices
from services.billing.invoices.terms import CustomerTerms
from services.billing.payments.invoice_state import refresh_invoice
from shared.money import allocate
from shared.period import Period
from shared.postgres import Connection

REASON = "Usage that was taken back after it had been invoiced"


async def give_back(
    connection: Connection,
    period: Period,
    drafts: Mapping[UUID, Customer],
    groups: Sequence[UsageGroup],
    terms: Mapping[UUID, CustomerTerms],
    *,
    at: datetime,
) -> tuple[list[UsageGroup], list[UUID]]:
    """Give back late negative groups by credit notes, where their customer wants it so; return the other groups, and the notes.

    A group that no single invoice can give back whole (it was never invoiced, or was credited already) stays: it becomes an adjustment.
    """
    late = [g for g in groups if g.is_late(period) and g.amount < 0 and _wanted(terms, drafts[g.invoice_id])]
    if not late:
        return list(groups), []
    invoices = await _invoices(connection, late)
    notes, given = [], set()
    for invoice in invoices:
        mine = [
            g for g in late if g.line_id not in given and drafts[g.invoice_id] == (invoice.user_id, invoice.currency)
        ]
        note_id, taken = await _note(connection, period, invoice, mine, at)
        if note_id is not None:
            notes.append(note_id)
            given |= taken
    return [g for g in groups if g.line_id not in given], notes


def _wanted(terms: Mapping[UUID, CustomerTerms], customer: Customer) -> bool:
    return terms[customer.user_id].late_usage == "credit_note"


async def _invoices(connection: Connection, late: Iterable[UsageGroup]) -> list[InvoiceDocument]:
    subscriptions, prices = {g.subscription_id for g in late}, {g.price_id for g in late}
    rows = await connection.fetch(SQL["billed_lines"], list(subscriptions), list(prices))
    return await read_invoices(connection, list(dict.fromkeys(row["invoice_id"] for row in rows)))


async def _note(
    connection: Connection, period: Period, invoice: InvoiceDocument, late: Iterable[UsageGroup], at: datetime
) -> tuple[UUID | None, set[UUID]]:
    """Write the note of one invoice over the groups that it can give back whole; return it and them, or nothing."""
    before = await credited(connection, invoice.id)
    left = {line.id: line.amount - before.lines.get(line.id, Decimal(0)) for line in invoice.lines}
    found: list[tuple[Line, DocumentLine]] = []
    for group in late:
        if pairs := _matching(usage_lines(group, period), invoice, left):
            found += pairs
    lines = _note_lines(found, invoice.currency)
    if not lines or not any(line.amount for line in lines) or any(_exceeds(line, left) for line in lines):
        return None, set()
    try:
        note = make_note(invoice, Credited(before.lines, before.taxes), lines)
    except CreditRefused:
        return None, set()
    id_ = await write_note(connection, invoice, note, kind="late_usage", reason=REASON, at=at)
    await refresh_invoice(connection, invoice.id, at=at)
    return id_, {line.usage_line_id for line, _ in found if line.usage_line_id}


def _matching(
    lines: Sequence[Line], invoice: InvoiceDocument, left: Mapping[UUID, Decimal]
) -> list[tuple[Line, DocumentLine]]:
    """Return each line of a group with the invoice's line for the same, or nothing if one is missing or too small."""
    pairs = []
    for line in lines:
        of = next((candidate for candidate in invoice.lines if _is_same(line, candidate)), None)
        if of is None or line.exact_amount > 0 or -line.exact_amount > left[of.id]:
            return []
        pairs.append((line, of))
    return pairs


def _is_same(line: Line, of: DocumentLine) -> bool:
    key = (line.subscription_id, line.price_id, line.component, line.unit_price)
    return key == (of.subscription_id, of.price_id, of.component, of.unit_price) and line.dimensions == of.dimensions


def _note_lines(pairs: Sequence[tuple[Line, DocumentLine]], currency: str) -> list[NoteLine]:
    amounts = allocate([-line.exact_amount for line, _ in pairs], currency)
    return [
        NoteLine(
            of=of, id=line.id, amount=amount, exact_amount=-line.exact_amount, quantity=Decimal(-line.quantity), unit=line.unit,
            unit_price=line.unit_price,
            usage={
                "usage_line_id": line.usage_line_id, "event_count": line.event_count, "first_event_at": line.first_event_at,
                "last_event_at": line.last_event_at, "checksum": line.checksum,
            },
        )
        for (line, of), amount in zip(pairs, amounts, strict=True)
    ]  # fmt: skip


def _exceeds(line: NoteLine, left: Mapping[UUID, Decimal]) -> bool:
    return line.amount > left[line.of.id]
