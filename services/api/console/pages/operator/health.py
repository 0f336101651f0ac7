"""How the pipeline stands: is it exact, does it go on, does anything wait."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.api.admin.jobs import list_jobs
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.rendering import page
from services.api.console.signed_in import Operator
from services.api.console.wording import N_
from services.api.operation import read_standing
from services.api.state import state_of

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/health", N_("Health"), "operator", 5)


@router.get("/health")
async def show_health(request: Request, session: Operator) -> Response:
    """The figures that an operator looks at first; the page asks for them anew by itself."""
    state = state_of(request)
    ends = await state.ends.latest()
    async with state.database.reading(session.principal) as connection:
        standing = await read_standing(connection, ends)
    jobs = await list_jobs(request, session.principal)
    overdue = [job.name for job in jobs if job.overdue]
    return await page(request, session, "operator/health.html", standing=standing, overdue=overdue)
