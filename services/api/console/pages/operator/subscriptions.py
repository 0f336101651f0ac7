"""Subscriptions of everybody: who is suspended, and why."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.subscriptions import list_all_subscriptions
from services.api.console.cells import Filter, any_of, badge, moment, number, table_of, text
from services.api.console.listing import customer_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.signed_in import Operator
from services.api.console.wording import N_, words_of
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/subscriptions", N_("Subscriptions"), "operator", 15)
STATES: Final = ("active", "trialing", "suspended", "paused", "pending", "cancelled", "expired")
Status = Literal["", "active", "trialing", "suspended", "paused", "pending", "cancelled", "expired"]


@router.get("/subscriptions")
async def show_subscriptions(
    request: Request,
    session: Operator,
    status: Annotated[Status, Query()] = "",
    to: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Subscriptions in a state, or to a plan or model, the newest first."""
    _ = words_of(session.language)
    found = await list_all_subscriptions(
        request, session.principal, Paging(50, cursor=cursor), status=status or None, to=to or None
    )
    table = table_of(
        N_("Subscriptions"),
        found.items,
        (N_("Customer"), lambda one: text(one.email, customer_page(one.user_id))),
        (N_("Plan or model"), lambda one: text(one.plan_id or one.model_id)),
        (N_("State"), lambda one: badge(one.status)),
        (N_("Why"), lambda one: text(", ".join(_(why.replace("_", " ")) for why in one.suspended_reasons))),
        (N_("Requests"), lambda one: number(one.used_requests)),
        (N_("of"), lambda one: number(one.quota_requests)),
        (N_("Tokens"), lambda one: number(one.used_tokens)),
        (N_("of"), lambda one: number(one.quota_tokens)),
        (N_("Since"), lambda one: moment(one.created_at)),
        empty=N_("There is no such subscription."),
        cursor=found.next_cursor,
        filters=(Filter("status", N_("State"), any_of(*STATES)), Filter("to", N_("Plan or model"))),
    )
    return await show_list(request, session, N_("Subscriptions"), table)
