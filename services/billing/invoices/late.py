"""Usage that was taken back after its invoice, for customers who want credit notes for that instead of adjustments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.customer import Customer
from services.billing.invoices.corrections import SQL, credited, write_note
from services.billing.invoices.crediting import CreditRefused, Note, NoteLine, make_note
from services.billing.invoices.document import DocumentLine, InvoiceDocument
from services.billing.invoices.lines import Line, UsageGroup, usage_lines
from services.billing.invoices.reading import read_invoices
from services.billing.invoices.terms import CustomerTerms
from services.billing.payments.invoice_state import refresh_invoice
from shared.money import allocate
from shared.period import Period
from shared.postgres import Connection

REASON = "Usage that was taken back after it had been invoiced"


@dataclass(frozen=True, slots=True)
class PlannedNote:
    """A credit note that would give back late usage: of this invoice, over the groups whose lines are in `taken`."""

    invoice: InvoiceDocument
    note: Note
    taken: frozenset[UUID]


async def give_back(
    connection: Connection,
    period: Period,
    drafts: Mapping[UUID, Customer],
    groups: Sequence[UsageGroup],
    terms: Mapping[UUID, CustomerTerms],
    *,
    at: datetime,
) -> tuple[list[UsageGroup], list[UUID]]:
    """Write the credit notes that `plan_notes` finds; return the groups that are left, and the notes. `set_offs` has locked the invoices."""
    left, planned = await plan_notes(connection, period, drafts, groups, terms)
    notes = []
    for plan in planned:
        notes.append(await write_note(connection, plan.invoice, plan.note, kind="late_usage", reason=REASON, at=at))
        await refresh_invoice(connection, plan.invoice.id, at=at)
    return left, notes


async def plan_notes(
    connection: Connection,
    period: Period,
    drafts: Mapping[UUID, Customer],
    groups: Sequence[UsageGroup],
    terms: Mapping[UUID, CustomerTerms],
) -> tuple[list[UsageGroup], list[PlannedNote]]:
    """Return what credit notes would give back of late negative groups, where their customer wants it so, and the other groups.

    A group that no single invoice can give back whole (it was never invoiced, or was credited already) stays: it becomes an adjustment.
    """
    late = _late(period, drafts, groups, terms)
    planned: list[PlannedNote] = []
    given: set[UUID] = set()
    for invoice in await _invoices(connection, late):
        mine = [
            g for g in late if g.line_id not in given and drafts[g.invoice_id] == (invoice.user_id, invoice.currency)
        ]
        if plan := await _plan(connection, period, invoice, mine):
            planned.append(plan)
            given |= plan.taken
    return [g for g in groups if g.line_id not in given], planned


def _late(
    period: Period, drafts: Mapping[UUID, Customer], groups: Iterable[UsageGroup], terms: Mapping[UUID, CustomerTerms]
) -> list[UsageGroup]:
    return [g for g in groups if g.is_late(period) and g.amount < 0 and _wanted(terms, drafts[g.invoice_id])]


def _wanted(terms: Mapping[UUID, CustomerTerms], customer: Customer) -> bool:
    return terms[customer.user_id].late_usage == "credit_note"


async def _invoices(connection: Connection, late: Sequence[UsageGroup]) -> list[InvoiceDocument]:
    if not late:
        return []
    subscriptions, prices = {g.subscription_id for g in late}, {g.price_id for g in late}
    rows = await connection.fetch(SQL["billed_by"], list(subscriptions), list(prices))
    return await read_invoices(connection, [row["id"] for row in rows])


async def _plan(
    connection: Connection, period: Period, invoice: InvoiceDocument, late: Iterable[UsageGroup]
) -> PlannedNote | None:
    """Return the note of one invoice over the groups that it can give back whole; nothing if there is none, or it would not fit."""
    before = await credited(connection, invoice)
    left = {line.id: line.amount - before.lines.get(line.id, Decimal(0)) for line in invoice.lines}
    found = [pair for group in late for pair in _matching(usage_lines(group, period), invoice, left)]
    lines = _note_lines(found, invoice.currency)
    if not any(line.amount for line in lines) or any(_exceeds(line, left) for line in lines):
        return None
    try:
        note = make_note(invoice, before, lines)
    except CreditRefused:
        return None
    return PlannedNote(invoice, note, frozenset(line.usage_line_id for line, _ in found if line.usage_line_id))


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
