"""Invoices of everybody: the list, one with its lines, and what is behind each line, down to the events."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.users import names_of
from services.api.console.cells import Filter, amount, any_of, badge, moment, table_of, text
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
    names = await names_of(request, session.principal, (one.user_id for one in found.items))
    table = table_of(
        N_("Invoices"),
        found.items,
        (N_("Number"), lambda one: text(one.number or "–", invoice_page(one.id))),
        (N_("State"), lambda one: badge(one.status)),
        (N_("Customer"), lambda one: text(names.get(one.user_id), customer_page(one.user_id, session))),
        (N_("Period begins"), lambda one: moment(one.period_start)),
        (N_("Due date"), lambda one: moment(one.due_date)),
        (N_("Total"), lambda one: amount(one.total, one.currency)),
        (N_("Due"), lambda one: amount(one.amount_due, one.currency)),
        empty=N_("No invoice so far."),
        cursor=found.next_cursor,
        filters=(Filter("status", N_("State"), any_of(*STATES)),),
    )
    return await show_list(request, session, N_("Invoices"), table)


@router.get("/finance/invoices/{reference}")
async def show_invoice(request: Request, session: Finance, reference: str) -> Response:
    """One invoice; each line leads to what is behind it."""
    invoice = await read_invoice(request, session.principal, reference)
    notes = await list_credit_notes(
        request=request, principal=session.principal, user=None, paging=Paging(20), invoice_id=invoice.id
    )
    customer = customer_page(invoice.user_id, session)
    return await page(request, session, "operator/invoice.html", invoice=invoice, notes=notes.items, customer=customer)


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
