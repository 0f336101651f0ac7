"""Invoices that finance corrects: credit notes, tried before they are written, and disputes, during which nobody is reminded."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, ValidationError

from services.api.admin.fields import Why
from services.api.auth.asking import Finance
from services.api.database import BILLING
from services.api.fields import Amount, Answer, Body, Exact
from services.api.idempotency import IdempotencyKey
from services.api.invoices.answers import CreditNote, Invoice, TaxAmount
from services.api.invoices.routes import Reference
from services.api.problems import invalid
from services.api.state import state_of
from services.billing.invoices import corrections
from services.billing.invoices.reading import read_invoice

router = APIRouter(prefix="/api/v1/admin/invoices", tags=["admin: money"])

MOST_LINES: Final = 1_000


class TakenBack(Body):
    """A line of an invoice that is to be taken back, in part or whole."""

    position: Annotated[int, Field(ge=1, le=1_000_000)]
    amount: Amount | None = Field(None, description="Net; the rest of the line without it.")


class NoteWish(Body):
    """A credit note that is to be written."""

    lines: list[TakenBack] | None = Field(
        None, min_length=1, max_length=MOST_LINES, description="All that is left without them."
    )
    goodwill: bool = Field(
        False, description="Beside what is given back when usage is corrected; else it is set off against that."
    )
    why: Why


class Reason(Body):
    """Why something is done."""

    why: Why


class NotePreviewLine(Answer):
    """A line of a credit note to be. `reduced`: how much more was asked for, and given back before as usage or a plan was corrected."""

    position: int = Field(description="Of the line of the invoice.")
    description: str
    amount: Exact
    reduced: Exact


class NotePreview(Answer):
    """What a credit note would take back of an invoice, and what that leaves of it."""

    invoice_id: UUID
    currency: str
    lines: list[NotePreviewLine]
    taxes: list[TaxAmount]
    subtotal: Exact
    tax: Exact
    total: Exact
    due_before: Exact
    due_after: Exact
    left_with_customer: Exact = Field(
        description="What was paid above the new amount: it pays the next invoice, or is given back."
    )


Lines = Annotated[
    list[str] | None,
    Query(
        max_length=MOST_LINES,
        alias="line",
        description="POSITION=AMOUNT, or POSITION for the rest of a line; all without.",
        examples=["2=18.60"],
    ),
]


@router.get("/{reference}/credit-notes/preview")
async def preview_credit_note(
    request: Request, principal: Finance, reference: Reference, lines: Lines = None, goodwill: bool = False
) -> NotePreview:
    """Show what a credit note would take back of an invoice. Nothing is written."""
    wanted = None if lines is None else _positions([_parsed(text) for text in lines])
    async with state_of(request).database.reading(principal) as connection:
        invoice, note = await corrections.plan_credit_note(connection, reference, wanted, goodwill=goodwill)
    paid_above = max(invoice.amount_paid - (invoice.total - invoice.amount_credited - note.total), 0 * note.total)
    return NotePreview(
        invoice_id=invoice.id,
        currency=invoice.currency,
        lines=[
            NotePreviewLine(
                position=ln.of.position, description=ln.of.description, amount=ln.amount, reduced=ln.reduced
            )
            for ln in note.lines
        ],
        taxes=[TaxAmount.model_validate(tax) for tax in note.taxes],
        subtotal=note.subtotal,
        tax=note.tax,
        total=note.total,
        due_before=invoice.amount_due,
        due_after=max(invoice.amount_due - note.total, 0 * note.total),
        left_with_customer=paid_above,
    )


@router.post("/{reference}/credit-notes", status_code=201)
async def write_credit_note(
    request: Request, principal: Finance, reference: Reference, key: IdempotencyKey, body: NoteWish
) -> CreditNote:
    """Take back lines of an issued invoice by a credit note, or all that is left of it. The same key writes it once."""
    wanted = None if body.lines is None else _positions(body.lines)
    state = state_of(request)
    async with state.database.writing(principal, role=BILLING, why=body.why) as connection:
        note = await corrections.credit_note(
            connection, reference, wanted, reason=body.why, at=state.clock.now(), goodwill=body.goodwill, actor=principal.name,
            idempotency_key=f"api:{principal.user_id}:{key}",
        )  # fmt: skip
    return CreditNote.model_validate(note)


@router.post("/{reference}/dispute")
async def dispute_invoice(request: Request, principal: Finance, reference: Reference, body: Reason) -> Invoice:
    """Note that the customer disputes an invoice: until that is settled nobody is reminded, charged or suspended for it."""
    state = state_of(request)
    async with state.database.writing(principal, role=BILLING, why=body.why) as connection:
        await corrections.dispute(connection, reference, reason=body.why, at=state.clock.now())
        return Invoice.model_validate(await read_invoice(connection, reference))


@router.post("/{reference}/dispute/settle")
async def settle_dispute(request: Request, principal: Finance, reference: Reference, body: Reason) -> Invoice:
    """End a dispute: what is unpaid is asked for again, by the steps that were left."""
    async with state_of(request).database.writing(principal, role=BILLING, why=body.why) as connection:
        await corrections.settle_dispute(connection, reference)
        return Invoice.model_validate(await read_invoice(connection, reference))


def _parsed(text: str) -> TakenBack:
    position, _, amount = text.partition("=")
    try:
        return TakenBack.model_validate({"position": position, "amount": amount or None})
    except ValidationError:
        raise invalid(
            "query.line", f"'{text[:50]}' is not a position, or a position and an amount, such as 2=10.50"
        ) from None


def _positions(lines: Sequence[TakenBack]) -> dict[int, Decimal | None]:
    """Return what is wanted by position. Raises `Problem` where a line is named twice."""
    wanted: dict[int, Decimal | None] = {}
    for line in lines:
        if line.position in wanted:
            raise invalid("line", f"line {line.position} is named twice: name it once, with the sum")
        wanted[line.position] = line.amount
    return wanted
