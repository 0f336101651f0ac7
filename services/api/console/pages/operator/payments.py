"""Payments and credit notes."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.credits import Payment, list_payments
from services.api.console.cells import Cell, Filter, amount, any_of, badge, code, moment, table_of, text
from services.api.console.listing import customer_page, invoice_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.signed_in import Finance
from services.api.console.wording import N_
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/finance/payments", N_("Payments"), "finance", 20)
STATES: Final = ("pending", "completed", "failed", "refunded")


@router.get("/finance/payments")
async def show_payments(
    request: Request,
    session: Finance,
    status: Annotated[str, Query(pattern="^[a-z_]{0,30}$")] = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Payments, the newest first."""
    found = await list_payments(request, session.principal, Paging(50, cursor=cursor), status=status or None)
    table = table_of(
        N_("Payments"),
        found.items,
        (N_("Time"), lambda one: moment(one.created_at)),
        (N_("Customer"), lambda one: text(one.email, customer_page(one.user_id, session))),
        (N_("For"), _paid_for),
        (N_("State"), lambda one: badge(one.status)),
        (N_("Way"), lambda one: text(one.provider)),
        (N_("Reference"), lambda one: code(one.reference)),
        (N_("Amount"), lambda one: amount(one.amount, one.currency)),
        (N_("Given back"), lambda one: amount(one.refunded_amount, one.currency)),
        empty=N_("No payment so far."),
        cursor=found.next_cursor,
        filters=(Filter("status", N_("State"), any_of(*STATES)),),
    )
    return await show_list(request, session, N_("Payments"), table)


def _paid_for(one: Payment) -> Cell:
    return text(
        one.invoice_number or one.package or "–", invoice_page(one.invoice_number) if one.invoice_number else ""
    )
