"""Payments and credit notes."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.credits import list_payments
from services.api.console.cells import Filter, Table, amount, any_of, badge, code, moment, text
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
    rows = [
        (
            moment(one.created_at),
            text(one.email, customer_page(one.user_id)),
            text(
                one.invoice_number or one.package or "–", invoice_page(one.invoice_number) if one.invoice_number else ""
            ),
            badge(one.status),
            text(one.provider),
            code(one.reference),
            amount(one.amount, one.currency),
            amount(one.refunded_amount, one.currency),
        )
        for one in found.items
    ]
    headers = (
        N_("Time"),
        N_("Customer"),
        N_("For"),
        N_("State"),
        N_("Way"),
        N_("Reference"),
        N_("Amount"),
        N_("Given back"),
    )
    table = Table(
        N_("Payments"), headers, rows, N_("No payment so far."), found.next_cursor, (Filter("status", N_("State"), any_of(*STATES)),)
    )  # fmt: skip
    return await show_list(request, session, N_("Payments"), table)
