"""Reads what is to be rendered."""

from __future__ import annotations

from typing import Final

from services.billing.documents.rendering import Document
from services.billing.invoices.reading import InvoiceNotFound, read_credit_note, read_invoice
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.documents")


async def read_document(connection: Connection, reference: str) -> Document:
    """Return the invoice or credit note of a number or id. Raises `InvoiceNotFound` if there is neither."""
    if not await connection.fetchval(SQL["is_credit_note"], reference):
        return await read_invoice(connection, reference)
    return await read_credit_note(connection, reference)


async def numbers_of_month(connection: Connection, month: Period) -> list[str]:
    """Return the numbers of the invoices that were issued for a month, in their order."""
    return [row["number"] for row in await connection.fetch(SQL["numbers_of_month"], month.start, month.end)]


__all__ = ["InvoiceNotFound", "numbers_of_month", "read_document"]
