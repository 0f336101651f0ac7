"""Invoices of everybody: the list, one with its lines, and what is behind each line, down to the events."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.console.cells import Filter, Table, amount, any_of, badge, moment, text
from services.api.console.listing import customer_page, invoice_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.rendering import page
from services.api.console.signed_in import Finance
from services.api.console.wording import N_
from services.api.explaining.routes import explain, list_explained_events
from services.api.invoices.answers import Status
from services.api.invoices.routes import list_credit_notes, list_invoices, read_invoice
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/finance/invoices", N_("Invoices"), "finance", 10)
STATES: Final = ("draft", "sent", "partially_paid", "paid", "overdue", "cancelled")
SHOWN: Final = 50
What = Annotated[str, Query(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]


@router.get("/finance/invoices")
async def show_invoices(
    request: Request,
    session: Finance,
    status: Annotated[Status | str, Query(pattern="^(|" + "|".join(STATES) + ")$")] = "",
    user: UUID | None = None,
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Every customer's invoices, the newest first."""
    found = await list_invoices(
        request=request,
        principal=session.principal,
        user=user,
        paging=Paging(SHOWN, cursor=cursor),
        status=status or None,  # type: ignore[arg-type]  # its pattern allows nothing else
    )
    rows = [
        (
            text(one.number or "–", invoice_page(one.id)),
            badge(one.status),
            text(str(one.user_id)[:13], customer_page(one.user_id)),
            moment(one.period_start),
            moment(one.due_date),
            amount(one.total, one.currency),
            amount(one.amount_due, one.currency),
        )
        for one in found.items
    ]
    headers = (
        N_("Number"),
        N_("State"),
        N_("Customer"),
        N_("Period begins"),
        N_("Due date"),
        N_("Total"),
        N_("Due"),
    )
    table = Table(
        N_("Invoices"),
        headers,
        rows,
        N_("No invoice so far."),
        found.next_cursor,
        (Filter("status", N_("State"), any_of(*STATES)),),
    )
    return await show_list(request, session, N_("Invoices"), table)


@router.get("/finance/invoices/{reference}")
async def show_invoice(request: Request, session: Finance, reference: str) -> Response:
    """One invoice; each line leads to what is behind it."""
    invoice = await read_invoice(request, session.principal, reference)
    notes = await list_credit_notes(
        request=request, principal=session.principal, user=None, paging=Paging(20), invoice_id=invoice.id
    )
    return await page(request, session, "operator/invoice.html", invoice=invoice, notes=notes.items)


@router.get("/finance/explain")
async def show_explanation(request: Request, session: Finance, what: What) -> Response:
    """Why an amount is what it is: the prices, the formula, and the events, which prove that they sum to it."""
    found = await explain(request, session.principal, what, events=20)
    return await page(request, session, "operator/explain.html", what=what, explained=found)


@router.get("/finance/explain/events")
async def show_events(
    request: Request, session: Finance, what: What, cursor: Annotated[str | None, Query(max_length=2_000)] = None
) -> Response:
    """Every event behind an amount."""
    found = await list_explained_events(request, session.principal, what, Paging(100, cursor=cursor))
    return await page(request, session, "operator/events.html", what=what, events=found.items, cursor=found.next_cursor)
