"""The audit log: who did what to whom."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.audit import list_audit_entries
from services.api.console.cells import Filter, Table, code, moment, text
from services.api.console.listing import customer_page, show_list
from services.api.console.navigation import NavItem
from services.api.console.page_route import PageRoute
from services.api.console.signed_in import Operator
from services.api.console.wording import N_
from services.api.paging import Paging

router = APIRouter(route_class=PageRoute)
NAV: Final = NavItem("/console/audit", N_("Audit log"), "operator", 80)
Words = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]


@router.get("/audit")
async def show_audit(  # noqa: PLR0917 (called by name)
    request: Request,
    session: Operator,
    actor: Words = "",
    action: Words = "",
    user: UUID | None = None,
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
) -> Response:
    """Entries of the audit log, the newest first."""
    found = await list_audit_entries(
        request, session.principal, Paging(50, cursor=cursor), actor=actor or None, action=action or None, user=user
    )
    rows = [
        (
            moment(one.created_at),
            text(one.actor),
            text(one.action),
            text(
                one.resource_type and f"{one.resource_type} {one.resource_id or ''}",
                customer_page(one.user_id) if one.user_id else "",
            ),
            code(_short(one.before)),
            code(_short(one.after)),
            code(one.ip_address),
        )
        for one in found.items
    ]
    headers = (N_("Time"), N_("Who"), N_("What"), N_("Of what"), N_("Before"), N_("After"), N_("From"))
    table = Table(
        N_("Audit log"), headers, rows, N_("There is nothing here."), found.next_cursor,
        (Filter("actor", N_("Who")), Filter("action", N_("What"))),
    )  # fmt: skip
    return await show_list(request, session, N_("Audit log"), table)


def _short(value: object) -> str | None:
    """Return the fields of a change, as many as a table has room for."""
    if not isinstance(value, dict):
        return None
    said = ", ".join(f"{name}: {what}" for name, what in value.items())
    return said if len(said) <= 160 else said[:157] + "…"
