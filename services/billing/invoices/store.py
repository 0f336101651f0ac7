"""Invoicing's IO with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from services.billing.invoices.fees import FeeTerms
from services.billing.invoices.invoicing import Invoice
from services.billing.invoices.lines import Fee, UsageGroup
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.invoices")


class Customer(NamedTuple):
    """Who gets an invoice, in which currency: several currencies never mix in one."""

    user_id: UUID
    currency: str


async def customers_with_usage(connection: Connection, period: Period, only_user: UUID | None) -> list[Customer]:
    """Return who has usage to be invoiced with this period, and no invoice for it yet."""
    rows = await connection.fetch(SQL["customers_with_usage"], period.start, period.end, only_user)
    return [Customer(*row) for row in rows]


async def fee_terms(connection: Connection, period: Period, only_user: UUID | None) -> list[FeeTerms]:
    """Return what subscriptions that began before the period's end cost flat."""
    return [FeeTerms(**row) for row in await connection.fetch(SQL["fee_terms"], period.end, only_user)]


async def charged_fees(connection: Connection, fees: Sequence[Fee]) -> set[tuple[UUID, datetime]]:
    """Return which fees were charged already, as (subscription, start of the interval)."""
    subscriptions, starts = [fee.subscription_id for fee in fees], [fee.period_start for fee in fees]
    return {tuple(row) for row in await connection.fetch(SQL["charged_fees"], subscriptions, starts)}


async def draft(
    connection: Connection, period: Period, customers: Sequence[Customer], *, entity: str
) -> dict[UUID, Customer]:
    """Begin the invoices of customers, in their order; those who have one for the period already are left out."""
    rows = await connection.fetch(
        SQL["draft"],
        [uuid7() for _ in customers],
        [customer.user_id for customer in customers],
        [customer.currency for customer in customers],
        period.start,
        period.end,
        "monthly" if period == Period.month_of(period.start) else "custom",
        entity,
    )
    return {row["id"]: Customer(row["user_id"], row["currency"]) for row in rows}


async def claim(connection: Connection, period: Period, drafts: Mapping[UUID, Customer]) -> list[UsageGroup]:
    """Tie all rated usage of the drafts' customers from before the period's end to lines; return what each line group comes to."""
    users, currencies = [c.user_id for c in drafts.values()], [c.currency for c in drafts.values()]
    rows = await connection.fetch(SQL["claim"], list(drafts), users, currencies, period.start, period.end)
    return [UsageGroup(**_whole_counts(row)) for row in rows]


def _whole_counts(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: int(v) if k.startswith("billed_") or k == "event_count" else v for k, v in row.items()}


async def insert_lines(connection: Connection, invoices: Sequence[Invoice]) -> None:
    """Write the lines of drafts."""
    records = [record for invoice in invoices for record in _line_records(invoice)]
    if records:
        await connection.execute(SQL["insert_lines"], *zip(*records, strict=True))


def _line_records(invoice: Invoice) -> Iterator[tuple[Any, ...]]:
    """Yield the parameters of insert_lines, one line at a time."""
    for position, (line, amount) in enumerate(zip(invoice.lines, invoice.amounts, strict=True), start=1):
        yield (
            line.id, invoice.id, position, line.kind, line.description, line.subscription_id, json.dumps(line.dimensions),
            line.component, line.quantity, line.unit, line.unit_price, line.price_id, line.usage_line_id, line.exact_amount, amount,
            invoice.currency, line.event_count, line.first_event_at, line.last_event_at, line.checksum, line.period_start,
            line.period_end,
        )  # fmt: skip


async def discard(connection: Connection, drafts: Sequence[UUID]) -> None:
    """Take back drafts that have nothing on them."""
    if drafts:
        await connection.execute(SQL["discard"], drafts)


async def issue(
    connection: Connection, invoices: Sequence[Invoice], *, issued_at: datetime, due_at: datetime, tax_rate: Decimal
) -> dict[UUID, str]:
    """Issue invoices whose lines are written; return their numbers."""
    rows = await connection.fetch(
        SQL["issue"],
        [i.id for i in invoices], [i.exact_subtotal for i in invoices], [i.subtotal for i in invoices], [i.tax for i in invoices],
        [i.total for i in invoices], [i.items for i in invoices], issued_at, due_at, tax_rate,
    )  # fmt: skip
    return {row["id"]: row["number"] for row in rows}
