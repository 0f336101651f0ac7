"""Routes of invoices and credit notes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from services.api.auth.asking import Asking
from services.api.auth.principal import Principal
from services.api.invoices.answers import (
    CreditNote,
    CreditNoteRow,
    Current,
    CurrentCost,
    Invoice,
    InvoiceRow,
    Line,
    Status,
)
from services.api.invoices.files import RESPONSES, Form, as_file
from services.api.paging import Listing, Page, page
from services.api.problems import NOT_FOUND, Problem
from services.api.scope import Owner, Whose
from services.api.state import state_of
from services.billing.invoices.preview import preview
from services.billing.invoices.reading import read_credit_note as credit_note_of
from services.billing.invoices.reading import read_invoice as invoice_of
from services.billing.invoices.reading import split_reference
from services.billing.invoices.terms import Terms
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

router = APIRouter(prefix="/api/v1", tags=["invoices"])

_SQL: Final = Queries.load("services.api.invoices")

Reference = Annotated[
    str, Path(max_length=200, pattern=r"^[^\x00/]+$", description="Number or id.", examples=["INV-2026-000001"])
]
AsItIs = Annotated[bool, Query(description="With what was paid and credited since it was issued; else as issued.")]


@router.get("/invoices")
async def list_invoices(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    paging: Page,
    status: Annotated[
        Status | None, Query(description="Only those in this status. Drafts are for who reads all.")
    ] = None,
) -> Listing[InvoiceRow]:
    """Invoices, the newest first."""
    asked = {"list": "invoices", "user": user, "status": status}
    after = paging.key(asked, datetime, UUID)
    drafts = principal.reads_all
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["invoices"], user, status, drafts, *after, paging.offset, paging.limit + 1)
        total = await connection.fetchval(_SQL["count_invoices"], user, status, drafts) if paging.counted else None
    shown, cursor = page(rows, paging, asked, lambda row: (row["created_at"], row["id"]))
    return Listing(items=[InvoiceRow(**row) for row in shown], next_cursor=cursor, total=total)


@router.get("/invoices/current")
async def read_current_cost(request: Request, principal: Asking, user: Owner) -> Current:
    """What the running month would be invoiced at now, and what it is likely to come to: what closing it would issue."""
    state = state_of(request)
    now = state.clock.now()
    period = Period.month_of(now)
    billing = state.capabilities.billing
    terms = Terms(billing.billing_entity, timedelta(days=billing.billing_payment_days))
    async with state.database.reading(principal) as connection:
        await state.database.see_all(connection)  # `user` is who asks, or somebody whom who reads all has named
        found = await preview(connection, user, period, now=now, terms=terms)
    return Current(
        user_id=user,
        period_start=period.start,
        period_end=period.end,
        as_of=now,
        items=[
            CurrentCost(
                currency=each.invoice.currency,
                subtotal=each.invoice.subtotal,
                tax=each.invoice.tax,
                total=each.invoice.total,
                credit_notes=each.credit_notes,
                forecast=each.forecast,
                method=each.method,
                lines=[Line.model_validate(line) for line in each.invoice.lines],
            )
            for each in found
        ],
    )


@router.get("/invoices/{reference}")
async def read_invoice(request: Request, principal: Asking, reference: Reference) -> Invoice:
    """An invoice with its lines, taxes and parties."""
    async with _the(request, principal, "invoice", reference) as (connection, id_):
        return Invoice.model_validate(await invoice_of(connection, id_))


@router.get("/invoices/{reference}/{form}", response_class=Response, responses=RESPONSES)
async def read_invoice_file(
    *, request: Request, principal: Asking, reference: Reference, form: Form, current: AsItIs = False
) -> Response:
    """An invoice to send or to keep: as PDF with the e-invoice inside, as HTML, or as e-invoice (EN 16931, XML)."""
    async with _the(request, principal, "invoice", reference) as (connection, id_):
        document = await invoice_of(connection, id_)
    return await as_file(document, form, current=current)


@router.get("/credit-notes")
async def list_credit_notes(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    paging: Page,
    invoice_id: Annotated[UUID | None, Query(description="Only of this invoice.")] = None,
) -> Listing[CreditNoteRow]:
    """Credit notes, the newest first."""
    asked = {"list": "credit notes", "user": user, "invoice": invoice_id}
    after = paging.key(asked, datetime, UUID)
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["credit_notes"], user, invoice_id, *after, paging.offset, paging.limit + 1)
        total = await connection.fetchval(_SQL["count_credit_notes"], user, invoice_id) if paging.counted else None
    shown, cursor = page(rows, paging, asked, lambda row: (row["issued_at"], row["id"]))
    return Listing(items=[CreditNoteRow(**row) for row in shown], next_cursor=cursor, total=total)


@router.get("/credit-notes/{reference}")
async def read_credit_note(request: Request, principal: Asking, reference: Reference) -> CreditNote:
    """A credit note with its lines, taxes and parties."""
    async with _the(request, principal, "credit_note", reference) as (connection, id_):
        return CreditNote.model_validate(await credit_note_of(connection, id_))


@router.get("/credit-notes/{reference}/{form}", response_class=Response, responses=RESPONSES)
async def read_credit_note_file(*, request: Request, principal: Asking, reference: Reference, form: Form) -> Response:
    """A credit note to send or to keep: as PDF with the e-invoice inside, as HTML, or as e-invoice (EN 16931, XML)."""
    async with _the(request, principal, "credit_note", reference) as (connection, id_):
        document = await credit_note_of(connection, id_)
    return await as_file(document, form, current=False)


@asynccontextmanager
async def _the(
    request: Request, principal: Principal, what: str, reference: str
) -> AsyncIterator[tuple[Connection, UUID]]:
    """Find a document that who asks may see; then it may be read whole. Raises `Problem` (404)."""
    database = state_of(request).database
    drafts = [principal.reads_all] if what == "invoice" else []
    async with database.reading(principal) as connection:
        found = await connection.fetchval(_SQL[what], *split_reference(reference), *drafts)
        if found is None:
            raise Problem(NOT_FOUND, f"there is no {what.replace('_', ' ')} {reference}")
        await database.see_all(connection)
        yield connection, found
