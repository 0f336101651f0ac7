"""Reads what is exported. Each function reads from the caller's snapshot; the SQL is in queries.sql."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from services.billing.exports.focus import FocusRow, focus_rows
from services.billing.exports.journal import (
    Burned,
    Money,
    Posting,
    burned_postings,
    invoice_postings,
    money_postings,
    unbalanced,
)
from services.billing.invoices.reading import read_credit_note, read_invoices
from shared.errors import BrokenInvariant
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.exports")
INVOICES_AT_ONCE: Final = 500


async def read_focus(connection: Connection, period: Period, *, service: str) -> AsyncIterator[FocusRow]:
    """Yield the FOCUS rows of invoices for periods that begin within `period`, and of their credit notes."""
    publishers = {row["id"]: row["provider"] for row in await connection.fetch(SQL["publishers"])}
    ids = [row["id"] for row in await connection.fetch(SQL["invoices_of_period"], period.start, period.end)]
    for first in range(0, len(ids), INVOICES_AT_ONCE):
        for invoice in await read_invoices(connection, ids[first : first + INVOICES_AT_ONCE]):
            span = invoice.period_start, invoice.period_end
            for row in focus_rows(invoice, span, service=service, publishers=publishers):
                yield row
    for found in await connection.fetch(SQL["credit_notes_of_period"], period.start, period.end):
        note = await read_credit_note(connection, found["id"])
        span = found["period_start"], found["period_end"]
        for row in focus_rows(note, span, service=service, publishers=publishers):
            yield row


async def read_journal(connection: Connection, period: Period) -> list[Posting]:
    """Return the journal of `period`, by date: documents issued, money moved, bought credits used.

    Raises `BrokenInvariant` if an entry does not balance: nothing of it is to be booked then.
    """
    postings: list[Posting] = []
    ends = period.start, period.end
    ids = [row["id"] for row in await connection.fetch(SQL["issued_invoices"], *ends)]
    for first in range(0, len(ids), INVOICES_AT_ONCE):
        for invoice in await read_invoices(connection, ids[first : first + INVOICES_AT_ONCE]):
            postings += invoice_postings(invoice)
    for row in await connection.fetch(SQL["issued_credit_notes"], *ends):
        postings += invoice_postings(await read_credit_note(connection, row["id"]))
    for query in ("money_in", "money_out"):
        for row in await connection.fetch(SQL[query], *ends):
            postings += money_postings(
                Money(
                    row["id"],
                    row["booked_at"].date(),
                    row["amount"],
                    row["allocated"],
                    row["currency"],
                    row["user_id"],
                    row["text"],
                )
            )
    for row in await connection.fetch(SQL["burned"], *ends):
        postings += burned_postings(
            Burned(
                row["id"],
                row["day"],
                row["before"],
                row["used"],
                row["credits"],
                row["price"],
                row["currency"],
                row["user_id"],
            )
        )
    if broken := unbalanced(postings):
        raise BrokenInvariant(f"the entry of {broken[0]} does not balance: find out why before the journal is booked")
    return sorted(postings, key=lambda p: (p.booked_on, p.document, -p.amount))
