"""What a period would cost if it were closed now, and what it is likely to come to. Reads only: the steps of closing without its marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

import msgspec

from services.billing.credits.grants import available
from services.billing.customer import Customer
from services.billing.invoices import store
from services.billing.invoices.composing import compose
from services.billing.invoices.document import DocumentLine, InvoiceDocument, Party
from services.billing.invoices.forecast import METHOD, forecast_usage
from services.billing.invoices.invoicing import Invoice, balanced, exact_sum, make_invoice
from services.billing.invoices.late import plan_notes
from services.billing.invoices.lines import Line, grant_line
from services.billing.invoices.setting_off import set_offs
from services.billing.invoices.setting_off_charges import set_offs_of_charges
from services.billing.invoices.terms import CustomerTerms, Terms
from services.billing.plans.charge import Charge
from services.billing.plans.due import charges_due
from shared.ids import uuid7
from shared.money import exact, round_money
from shared.period import Period
from shared.postgres import Connection

CUSTOMERS_AT_ONCE: Final = 50
"""Customers whose invoices are computed together."""
MOST_PREVIEWED: Final = 500
"""Invoices that the preview of a run computes: who has more customers sees how many, and the first of them."""

_decode_party = msgspec.json.Decoder(Party).decode


@dataclass(frozen=True, slots=True)
class Preview:
    """An invoice that is not issued: as it would be now, and what `forecast` (net of tax, by `method`) the period is likely to come to.

    `credit_notes` is what would be given back by credit notes at the same time, with tax. `forecast` is None when it is too early to say.
    """

    invoice: InvoiceDocument
    forecast: Decimal | None
    credit_notes: Decimal
    method: str = METHOD


async def preview(
    connection: Connection, user_id: UUID, period: Period, *, now: datetime, terms: Terms | None = None
) -> list[Preview]:
    """Return what `user_id` would be invoiced for `period`, by currency; nothing where that is issued already, or nothing is to be paid.

    At the end of the grace it is what closing issues. While the period runs, usage of the month before is left out as long as that month has
    no invoice of its own. `connection` must not be in a transaction: everything is read in one snapshot.
    """
    terms = terms or Terms()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        charges, customers = await _to_be_invoiced(connection, period, user_id)
        return await _previews(connection, period, customers, charges, now=now, terms=terms, only_user=user_id)


@dataclass(frozen=True, slots=True)
class RunPreview:
    """What closing a period would issue now. `customers` is how many invoices there would be; `previews` are the first of them."""

    customers: int
    previews: Sequence[Preview]


async def preview_run(
    connection: Connection, period: Period, *, now: datetime, terms: Terms, most: int = MOST_PREVIEWED
) -> RunPreview:
    """Return what closing a period would issue, for at most so many customers. Reads only, in one snapshot.

    Raises `ConfigurationError` where the legal entity that issues them is missing.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await store.require_entity(connection, terms.entity)
        charges, customers = await _to_be_invoiced(connection, period, None)
        previews: list[Preview] = []
        for start in range(0, min(len(customers), most), CUSTOMERS_AT_ONCE):
            some = customers[start : min(start + CUSTOMERS_AT_ONCE, most)]
            previews += await _previews(connection, period, some, charges, now=now, terms=terms)
        return RunPreview(len(customers), previews)


async def _to_be_invoiced(
    connection: Connection, period: Period, only_user: UUID | None
) -> tuple[dict[Customer, list[Charge]], list[Customer]]:
    """Return the charges that are due, and who has no invoice for the period yet, in the order in which closing takes them."""
    charges = await charges_due(connection, period, only_user)
    issued = await store.invoiced(connection, period, only_user)
    customers = {*await store.customers_with_usage(connection, period, only_user), *charges} - issued
    return charges, sorted(customers)


async def _previews(
    connection: Connection,
    period: Period,
    customers: Sequence[Customer],
    charges: Mapping[Customer, list[Charge]],
    *,
    now: datetime,
    terms: Terms,
    only_user: UUID | None = None,
) -> list[Preview]:
    drafts = {uuid7(): customer for customer in customers}
    of = await store.customer_terms(connection, drafts.values(), terms)
    unbilled = await store.unbilled(connection, period, drafts)
    if now < period.end:  # the month before is invoiced by itself, not as adjustments of this one
        last = Period.month_of(period.start - timedelta(microseconds=1))
        closed = await store.invoiced(connection, last, only_user)
        unbilled = [g for g in unbilled if g.period_start != last.start or drafts[g.invoice_id] in closed]
    off = await set_offs(connection, period, drafts, unbilled, claimed=False)
    open_ = [group for group in unbilled if group.line_id not in off.groups]
    groups, notes = await plan_notes(connection, period, drafts, open_, of)
    groups += [group for group in unbilled if group.line_id in off.groups]
    mine = {customer: charges[customer] for customer in customers if customer in charges}
    off.add(await set_offs_of_charges(connection, drafts, mine, claimed=False))
    carried = await store.carried(connection, drafts.values())
    lines = compose(period, drafts, groups, mine, carried, set_offs=off.lines)
    granted = await store.with_grants(connection, drafts.values())
    previews = []
    for id_, found in lines.items():
        customer, whole = drafts[id_], balanced(found)
        if customer in granted:
            whole += await _grants(connection, customer, whole, now)
        invoice = make_invoice(id_, *customer, whole, tax=of[customer.user_id].tax)
        back = [p.note.total for p in notes if (p.invoice.user_id, p.invoice.currency) == customer]
        previews.append(_preview(invoice, of[customer.user_id], period, now, sum(back, Decimal(0))))
    return previews


async def _grants(connection: Connection, customer: Customer, lines: Sequence[Line], now: datetime) -> list[Line]:
    net = round_money(exact_sum(lines), customer.currency)
    granted = min(await available(connection, *customer, at=now), net)
    return [grant_line("granted before", granted, UUID(int=0))] if granted > 0 else []


def _preview(invoice: Invoice, terms: CustomerTerms, period: Period, now: datetime, credit_notes: Decimal) -> Preview:
    with exact():
        used = exact_sum(line for line in invoice.lines if line.kind == "usage")
        known = exact_sum(line for line in invoice.lines if line.kind not in ("usage", "carried", "credit"))
        taken_off = exact_sum(
            line for line in invoice.lines if line.kind in ("carried", "credit") and line.exact_amount < 0
        )
    usage = forecast_usage(used, period, now, invoice.currency)
    forecast = None if usage is None else max(round_money(usage + known + taken_off, invoice.currency), Decimal(0))
    return Preview(as_document(invoice, terms, period), forecast, credit_notes)


def as_document(invoice: Invoice, terms: CustomerTerms, period: Period) -> InvoiceDocument:
    """Return an invoice that is not issued as the document that it would be, but for its number and dates."""
    return InvoiceDocument(
        id=invoice.id, number=None, kind="usage", status="draft", user_id=invoice.user_id, entity=terms.entity, currency=invoice.currency,
        language=terms.language, period_start=period.start, period_end=period.end, issue_date=None, due_date=None, paid_date=None,
        payment_terms_days=terms.payment_days, seller=_decode_party(terms.seller), buyer=_decode_party(terms.buyer),
        lines=tuple(
            _line(invoice, line, position, amount)
            for position, (line, amount) in enumerate(zip(invoice.lines, invoice.amounts, strict=True), start=1)
        ),
        taxes=invoice.taxes, exact_subtotal=invoice.exact_subtotal, subtotal=invoice.subtotal, tax=invoice.tax, total=invoice.total,
        amount_paid=Decimal(0), amount_credited=Decimal(0),
    )  # fmt: skip


def _line(invoice: Invoice, line: Line, position: int, amount: Decimal) -> DocumentLine:
    return DocumentLine(
        id=line.id, position=position, kind=line.kind, description=line.description, quantity=Decimal(line.quantity), unit=line.unit,
        unit_price=line.unit_price, exact_amount=line.exact_amount, amount=amount, tax_category=invoice.line_tax.category,
        tax_rate=invoice.line_tax.rate, subscription_id=line.subscription_id, period_start=line.period_start, period_end=line.period_end,
        component=line.component, price_id=line.price_id, charge_key=line.charge_key, usage_line_id=line.usage_line_id,
        event_count=line.event_count, first_event_at=line.first_event_at, last_event_at=line.last_event_at, dimensions=line.dimensions,
    )  # fmt: skip
