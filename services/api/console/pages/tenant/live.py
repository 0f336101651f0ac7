"""The live view: counters that move as usage comes in."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.pages.tenant.overview import name_of
from services.api.console.rendering import page
from services.api.console.signed_in import Tenant
from services.api.console.wording import N_
from services.api.subscriptions.routes import read_quotas
from services.api.usage.streaming import stream_usage

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/live", N_("Live"), "tenant", 30)


@router.get("/live")
async def show_live(request: Request, session: Tenant) -> Response:
    """What is used at this moment."""
    who = session.principal
    quotas = await read_quotas(request=request, principal=who, user=who.user_id)
    return await page(request, session, "tenant/live.html", quotas=[(name_of(each), each) for each in quotas.items])


@router.get("/live/stream")
async def stream_live(
    request: Request, session: Tenant, last_event_id: Annotated[str | None, Header(max_length=100)] = None
) -> Response:
    """The API's stream of counters, for this page."""
    return await stream_usage(request, session.principal, session.principal.user_id, last_event_id)
