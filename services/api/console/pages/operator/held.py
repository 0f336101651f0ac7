"""Events that wait for their subscription or key."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.repair import list_held
from services.api.console.cells import Filter, Table, any_of, code, moment, text
from services.api.console.listing import show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.signed_in import Operator
from services.api.console.wording import N_
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/held", N_("Held events"), "operator", 40)
STATES: Final = ("waiting", "attributed", "expired")


@router.get("/held")
async def show_held(
    request: Request,
    session: Operator,
    state: Annotated[str, Query(pattern="^(|waiting|attributed|expired)$")] = "waiting",
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Held events, the newest first."""
    found = await list_held(request, session.principal, Paging(50, cursor=cursor), state=state or None)  # type: ignore[arg-type]
    rows = [
        (
            moment(one.held_at),
            text(one.reason),
            code(one.subscription_id),
            code(one.api_key_id),
            moment(one.occurred_at),
            moment(one.attributed_at or one.expired_at),
        )
        for one in found.items
    ]
    headers = (N_("Held"), N_("Waits for"), N_("Subscription"), N_("Key"), N_("Happened"), N_("Settled"))
    table = Table(
        N_("Held events"), headers, rows, N_("No event waits."), found.next_cursor, (Filter("state", N_("State"), any_of(*STATES)),)
    )  # fmt: skip
    return await show_list(
        request,
        session,
        N_("Held events"),
        table,
        hint=N_("They are counted by themselves as soon as their subscription or key is there."),
    )
