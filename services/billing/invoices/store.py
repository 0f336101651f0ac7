"""Invoicing's IO with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from services.billing.customer import Customer
from services.billing.invoices.invoicing import Invoice
from services.billing.invoices.lines import Line, UsageGroup, carried_in
from services.billing.invoices.terms import CustomerTerms, Terms
from shared.errors import ConfigurationError
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

__all__ = ["Customer"]

SQL = Queries.load("services.billing.invoices")
_encode = msgspec.json.Encoder(decimal_format="number").encode


async def customers_with_usage(connection: Connection, period: Period, only_user: UUID | None) -> list[Customer]:
    """Return who has usage to be invoiced with this period, and no invoice for it yet."""
    rows = await connection.fetch(SQL["customers_with_usage"], period.start, period.end, only_user)
    return [Customer(*row) for row in rows]


async def invoiced(connection: Connection, period: Period, user_id: UUID | None) -> set[Customer]:
    """Return who has been invoiced for a period, by currency: of a user, or of all."""
    return {Customer(*row) for row in await connection.fetch(SQL["invoiced"], user_id, period.start, period.end)}


async def require_entity(connection: Connection, entity: str) -> None:
    """Raise `ConfigurationError` unless there is such a legal entity."""
    if not await connection.fetchval(SQL["entity_exists"], entity):
        raise ConfigurationError(
            f"there is no legal entity '{entity}': make it with `tallystick invoice entity {entity} --name …`"
        )


async def customer_terms(
    connection: Connection, customers: Collection[Customer], terms: Terms
) -> dict[UUID, CustomerTerms]:
    """Return on what terms each user is invoiced."""
    users = list({customer.user_id for customer in customers})
    rows = await connection.fetch(SQL["customer_terms"], users, terms.entity, terms.payment.days)
    return {row["user_id"]: CustomerTerms(**row) for row in rows}


async def draft(
    connection: Connection, period: Period, customers: Sequence[Customer], *, entity: str
) -> dict[UUID, Customer]:
    """Begin the invoices of customers, or take up drafts of theirs, for this transaction alone; who has an invoice is left out."""
    await connection.execute(SQL["by_index"])
    users, currencies = [c.user_id for c in customers], [c.currency for c in customers]
    kind = "monthly" if period == Period.month_of(period.start) else "custom"
    ids = [uuid7() for _ in customers]
    await connection.execute(SQL["draft"], ids, users, currencies, period.start, period.end, kind, entity)
    rows = await connection.fetch(SQL["lock_drafts"], users, currencies, period.start, period.end)
    return {row["id"]: Customer(row["user_id"], row["currency"]) for row in rows}


async def claim(connection: Connection, period: Period, drafts: Mapping[UUID, Customer]) -> list[UsageGroup]:
    """Tie all rated usage of the drafts' customers from before the period's end to lines; return what each line group comes to."""
    return await _groups(connection, "claim", period, drafts)


async def unbilled(connection: Connection, period: Period, drafts: Mapping[UUID, Customer]) -> list[UsageGroup]:
    """Return what `claim` would, and change nothing."""
    return await _groups(connection, "preview", period, drafts)


async def _groups(
    connection: Connection, query: str, period: Period, drafts: Mapping[UUID, Customer]
) -> list[UsageGroup]:
    users, currencies = [c.user_id for c in drafts.values()], [c.currency for c in drafts.values()]
    rows = await connection.fetch(SQL[query], list(drafts), users, currencies, period.start, period.end)
    return [UsageGroup(*row) for row in rows]


async def carried(connection: Connection, customers: Collection[Customer]) -> dict[Customer, list[Line]]:
    """Return the lines that take off what earlier invoices of customers carried over."""
    found: dict[Customer, list[Line]] = {}
    users, currencies = [c.user_id for c in customers], [c.currency for c in customers]
    for row in await connection.fetch(SQL["carried"], users, currencies):
        customer = Customer(row["user_id"], row["currency"])
        found.setdefault(customer, []).append(carried_in(row["line_id"], row["number"], row["exact_amount"]))
    return found


async def with_grants(connection: Connection, customers: Collection[Customer]) -> set[Customer]:
    """Return which customers have money granted to them that is not used up."""
    users, currencies = [c.user_id for c in customers], [c.currency for c in customers]
    return {Customer(*row) for row in await connection.fetch(SQL["with_grants"], users, currencies)}


async def insert_lines(connection: Connection, invoices: Sequence[Invoice]) -> None:
    """Write the lines of drafts."""
    lines = [line for invoice in invoices for line in invoice.lines]
    if not lines:
        return
    of = [(number, place) for number, i in enumerate(invoices, 1) for place in range(1, len(i.lines) + 1)]
    await connection.execute(
        SQL["insert_lines"],
        [i.id for i in invoices], [i.currency for i in invoices], [i.line_tax.category for i in invoices],
        [i.line_tax.rate for i in invoices], [number for number, _ in of], [place for _, place in of],
        [line.id for line in lines], [line.kind for line in lines], [line.description for line in lines],
        [line.subscription_id for line in lines], [_encode(line.dimensions).decode() for line in lines],
        [line.component for line in lines], [str(line.quantity) for line in lines], [line.unit for line in lines],
        [None if line.unit_price is None else str(line.unit_price) for line in lines], [line.price_id for line in lines],
        [line.usage_line_id for line in lines], [str(line.exact_amount) for line in lines],
        [str(amount) for i in invoices for amount in i.amounts], [line.event_count for line in lines],
        [line.first_event_at for line in lines], [line.last_event_at for line in lines], [line.checksum for line in lines],
        [line.period_start for line in lines], [line.period_end for line in lines], [line.charge_key for line in lines],
    )  # fmt: skip


async def discard(connection: Connection, drafts: Sequence[UUID]) -> None:
    """Take back drafts that have nothing on them."""
    if drafts:
        await connection.execute(SQL["discard"], drafts)


async def issue(
    connection: Connection, invoices: Sequence[Invoice], terms: Mapping[UUID, CustomerTerms], *, issued_at: datetime
) -> dict[UUID, str]:
    """Issue invoices whose lines are written; return their numbers."""
    of = [terms[invoice.user_id] for invoice in invoices]
    rows = await connection.fetch(
        SQL["issue"],
        [i.id for i in invoices], issued_at, [i.exact_subtotal for i in invoices], [i.subtotal for i in invoices],
        [i.line_tax.rate for i in invoices], [i.tax for i in invoices], [i.total for i in invoices], [i.items for i in invoices],
        [i.taxes_json for i in invoices], [t.entity for t in of], [t.seller for t in of], [t.buyer for t in of],
        [t.language for t in of], [t.payment_days for t in of],
    )  # fmt: skip
    return {row["id"]: row["number"] for row in rows}
