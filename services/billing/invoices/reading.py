"""Reads invoices and credit notes whole, as documents, payments and people want them. Reads only; the SQL is in reading.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from services.billing.invoices.document import CreditNoteDocument, DocumentLine, InvoiceDocument, Party, TaxAmount
from shared.errors import NotFound
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.invoices", "reading.sql")
_decode_parties = msgspec.json.Decoder(Party).decode
_decode_taxes = msgspec.json.Decoder(tuple[TaxAmount, ...]).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_NOBODY = '{"name": ""}'

Reference = UUID | str


class InvoiceNotFound(NotFound):
    """There is no invoice, or no credit note, of this id or number."""


async def read_invoice(connection: Connection, reference: Reference) -> InvoiceDocument:
    """Return an invoice by its id or number. A draft, or one from before parties were kept, has the parties of today.

    Raises `InvoiceNotFound`.
    """
    row = await connection.fetchrow(SQL["invoice"], *split_reference(reference))
    if row is None:
        raise InvoiceNotFound(f"there is no invoice {reference}: `tallystick invoice list` lists them")
    lines = await connection.fetch(SQL["invoice_lines"], [row["id"]])
    return _invoice(row, lines)


async def read_invoices(connection: Connection, ids: Sequence[UUID]) -> list[InvoiceDocument]:
    """Return invoices by id, in the order of their ids, with two statements whatever their number."""
    lines: dict[UUID, list[asyncpg.Record]] = {}
    for line in await connection.fetch(SQL["invoice_lines"], list(ids)):
        lines.setdefault(line["invoice_id"], []).append(line)
    rows = await connection.fetch(SQL["invoices"], list(ids))
    return [_invoice(row, lines.get(row["id"], [])) for row in rows]


async def read_credit_note(connection: Connection, reference: Reference) -> CreditNoteDocument:
    """Return a credit note by its id or number. Raises `InvoiceNotFound`."""
    row = await connection.fetchrow(SQL["credit_note"], *split_reference(reference))
    if row is None:
        raise InvoiceNotFound(
            f"there is no credit note {reference}: `tallystick invoice show` names those of an invoice"
        )
    lines = await connection.fetch(SQL["credit_note_lines"], row["id"])
    return CreditNoteDocument(**_whole(row, lines))


def split_reference(reference: Reference) -> tuple[UUID | None, str | None]:
    """Return what is meant, as an id or as a number."""
    try:
        return (reference if isinstance(reference, UUID) else UUID(reference)), None
    except ValueError:
        return None, str(reference)


def _invoice(row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> InvoiceDocument:
    facts = _whole(row, lines)
    if not facts["taxes"] and facts["number"] is not None:  # issued before taxes were kept by rate
        rate = facts["tax_rate"]
        facts["taxes"] = (TaxAmount("S" if rate else "O", rate, facts["subtotal"], facts["tax"]),)
    facts["credit_notes"] = tuple(facts["credit_notes"])
    del facts["tax_rate"]
    return InvoiceDocument(**facts)


def _whole(row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **row,
        "seller": _decode_parties(row["seller"] or _NOBODY),
        "buyer": _decode_parties(row["buyer"] or _NOBODY),
        "taxes": _decode_taxes(row["taxes"]),
        "metadata": _decode_object(row["metadata"]),
        "lines": tuple(_line(line) for line in lines),
    }


def _line(row: Mapping[str, Any]) -> DocumentLine:
    facts = {**row, "dimensions": _decode_object(row["dimensions"])}
    facts.pop("invoice_id", None)
    return DocumentLine(**facts)
