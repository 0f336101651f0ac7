"""Corrections of issued invoices: credit notes, voids and disputes. Each function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from services.billing.credits.grants import restore_grants
from services.billing.events import CREDIT_NOTE_ISSUED, INVOICE_DISPUTED, INVOICE_VOIDED, EventType, billing_event
from services.billing.invoices.crediting import Credited, CreditRefused, Note, take_back
from services.billing.invoices.document import CreditNoteDocument, InvoiceDocument, Party, TaxAmount
from services.billing.invoices.invoicing import taxes_json
from services.billing.invoices.reading import (
    InvoiceNotFound,
    Reference,
    read_credit_note,
    read_invoice,
    split_reference,
)
from services.billing.invoices.setting_off import standings, write_reductions
from services.billing.invoices.setting_off_charges import families_of
from services.billing.payments.invoice_state import refresh_invoice
from shared.ids import uuid7
from shared.money import round_money
from shared.outbox import Outbox
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.invoices", "corrections.sql")
OUTBOX = Outbox("billing_outbox")
_encode = msgspec.json.Encoder(decimal_format="number").encode


async def credit_note(
    connection: Connection,
    invoice: Reference,
    lines: Mapping[int, Decimal | None] | None = None,
    *,
    reason: str,
    at: datetime,
    goodwill: bool = False,
    actor: str | None = None,
    idempotency_key: str | None = None,
) -> CreditNoteDocument:
    """Take back lines of an issued invoice by position, each in part or (None) the rest of it; without `lines` the rest of all.

    Amounts are net; tax follows. What corrections of usage gave back is not given again, before nor after; `goodwill` is beside them.
    What a grant paid, and is taken back, is there again. A repeated call with a key returns the first note.
    Raises `InvoiceNotFound`, `CreditRefused`.
    """
    if idempotency_key and (known := await connection.fetchrow(SQL["note_by_key"], idempotency_key)):
        return await read_credit_note(connection, known["id"])
    document = await locked(connection, invoice)
    note = take_back(document, await credited(connection, document), lines, goodwill=goodwill)
    kind = "goodwill" if goodwill else "correction"
    id_ = await write_note(
        connection, document, note, kind=kind, reason=reason, at=at, actor=actor, key=idempotency_key
    )
    if grants := [UUID(line.of.dimensions["grant"]) for line in note.lines if line.of.kind == "credit" and line.amount]:
        await restore_grants(connection, document.id, grants)
    await refresh_invoice(connection, document.id, at=at)
    return await read_credit_note(connection, id_)


async def plan_credit_note(
    connection: Connection,
    invoice: Reference,
    lines: Mapping[int, Decimal | None] | None = None,
    *,
    goodwill: bool = False,
) -> tuple[InvoiceDocument, Note]:
    """Return an invoice, and the note that `credit_note` would write for it now. Reads only. Raises what that raises."""
    document = await read_invoice(connection, invoice)
    return document, take_back(document, await credited(connection, document), lines, goodwill=goodwill)


async def void_invoice(
    connection: Connection,
    invoice: Reference,
    *,
    reason: str,
    at: datetime,
    rebill: bool = False,
    actor: str | None = None,
) -> CreditNoteDocument:
    """Cancel an issued invoice by a credit note over the rest of it; credits that it used are there again, what was paid is kept for others.

    With `rebill` the usage and the charges behind it become billable again, and its period may be closed anew; without, they are given
    away. Raises `InvoiceNotFound`, `CreditRefused`.
    """
    document = await locked(connection, invoice)
    before = await credited(connection, document)
    if rebill and (taken_by := await connection.fetchval(SQL["carried_on"], document.id)):
        raise CreditRefused(
            f"{document.number} gave credit that {taken_by} has counted: void {taken_by} for rebilling first"
        )
    if not rebill and any(line.kind == "carried" and line.amount > 0 for line in document.lines):
        raise CreditRefused(
            f"{document.number} comes to nothing and carries credit over to the next invoice: void it with --rebill, or leave it"
        )
    if not rebill and any(before.elsewhere.values()):
        raise CreditRefused(
            f"usage of {document.number} was taken back, or a plan changed, and {sum(before.elsewhere.values())} {document.currency} given back "
            "for it on a later invoice: give back what is left of it with a credit note, or void it with --rebill"
        )
    note = take_back(document, replace(before, elsewhere={}))
    id_ = await write_note(connection, document, note, kind="void", reason=reason, at=at, actor=actor)
    await connection.execute(SQL["cancel"], document.id, at, reason, rebill)
    if rebill:
        await connection.execute(SQL["release_usage"], document.id)
    await connection.execute(SQL["release_charges"], document.id, rebill)
    await restore_grants(connection, document.id)
    await refresh_invoice(connection, document.id, at=at)
    await _announce(connection, INVOICE_VOIDED, document, at, {"reason": reason, "rebill": rebill})
    return await read_credit_note(connection, id_)


async def dispute(connection: Connection, invoice: Reference, *, reason: str, at: datetime) -> None:
    """Note that the customer disputes an issued invoice: its usage stays in the database until that is settled. Raises `CreditRefused`."""
    document = await locked(connection, invoice)
    if await connection.fetchval(SQL["dispute"], document.id, at, reason) is None:
        raise CreditRefused(f"draft {document.id} is not issued: there is nothing to dispute yet")
    await _announce(connection, INVOICE_DISPUTED, document, at, {"reason": reason})


async def settle_dispute(connection: Connection, invoice: Reference) -> None:
    """Note that a dispute is settled; a credit note says by itself if something was given back. Raises `CreditRefused`."""
    document = await locked(connection, invoice)
    if await connection.fetchval(SQL["settle_dispute"], document.id) is None:
        raise CreditRefused(f"{document.number or document.id} is not disputed")


async def locked(connection: Connection, invoice: Reference) -> InvoiceDocument:
    """Return an invoice that nobody else corrects or pays meanwhile. Raises `InvoiceNotFound`."""
    id_ = await connection.fetchval(SQL["lock_invoice"], *split_reference(invoice))
    if id_ is None:
        raise InvoiceNotFound(f"there is no invoice {invoice}: `tallystick invoice list` lists them")
    return await read_invoice(connection, id_)


async def credited(connection: Connection, invoice: InvoiceDocument) -> Credited:
    """Return what was taken back of an invoice so far."""
    rows = await connection.fetch(SQL["credited_lines"], invoice.id)
    lines, late = {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}
    taxes = [TaxAmount(*row) for row in await connection.fetch(SQL["credited_taxes"], invoice.id)]
    used = {
        (ln.usage_line_id, ln.component): ln.id
        for ln in invoice.lines
        if ln.usage_line_id and ln.component and ln.amount > 0
    }
    found = await standings(connection, invoice.user_id, list(used)) if used else {}
    elsewhere = {
        used[line]: max(
            round_money(given.given_by_usage - late.get(used[line], Decimal(0)), invoice.currency), Decimal(0)
        )
        for line, given in found.items()
    }
    standings_ = {used[line]: given for line, given in found.items()}
    charges = {line.id: line for line in invoice.lines if line.charge_key and line.subscription_id}
    for id_, family in (await families_of(connection, invoice.user_id, list(charges.values()))).items():
        standings_[id_] = family.standing()
        if given := round_money(family.elsewhere(invoice.id), invoice.currency):
            elsewhere[id_] = given
    return Credited(lines, taxes, elsewhere, standings_)


async def write_note(
    connection: Connection,
    invoice: InvoiceDocument,
    note: Note,
    *,
    kind: str,
    reason: str,
    at: datetime,
    actor: str | None = None,
    key: str | None = None,
) -> UUID:
    """Write and announce a credit note; return its id. Whoever calls refreshes the invoice."""
    id_ = uuid7()
    written = await connection.fetchrow(
        SQL["insert_note"], id_, invoice.id, at, kind, reason, note.exact_subtotal, note.subtotal, note.tax, note.total,
        taxes_json(note.taxes), _party(invoice.seller), _party(invoice.buyer), actor, key,
    )  # fmt: skip
    rows = [
        (
            line.id, position, line.of.id, line.of.description, line.quantity, line.unit, line.unit_price, line.exact_amount,
            line.amount, line.of.tax_category, line.of.tax_rate, line.of.subscription_id, line.of.price_id,
            line.of.component, line.of.period_start, line.of.period_end, _encode(line.of.dimensions).decode(),
            line.usage.get("usage_line_id"), line.usage.get("event_count", 0), line.usage.get("first_event_at"),
            line.usage.get("last_event_at"), line.usage.get("checksum"),
        )
        for position, line in enumerate(note.lines, start=1)
    ]  # fmt: skip
    await connection.execute(SQL["insert_note_lines"], id_, invoice.currency, *zip(*rows, strict=True))
    await write_reductions(connection, {line.id: line.reduced for line in note.lines if line.reduced})
    facts = {"credit_note": str(id_), "credit_note_number": written["number"], "kind": kind, "reason": reason}
    await _announce(connection, CREDIT_NOTE_ISSUED, invoice, at, {**facts, "total": f"{note.total:f}"})
    return id_


def _party(party: Party) -> str:
    facts = msgspec.to_builtins(party)
    return _encode({name: fact for name, fact in facts.items() if fact is not None}).decode()


async def _announce(
    connection: Connection, kind: EventType, invoice: InvoiceDocument, at: datetime, facts: Mapping[str, object]
) -> None:
    data = {"invoice": str(invoice.id), "number": invoice.number, "currency": invoice.currency, **facts}
    await OUTBOX.enqueue(connection, [billing_event(kind, invoice.user_id, at, data)])
