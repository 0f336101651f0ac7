"""The audit log: who did what to whom."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from services.api.admin.audit import Entry, list_audit_entries
from services.api.console.cells import Filter, code, moment, table_of, text
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
    table = table_of(
        N_("Audit log"),
        found.items,
        (N_("Time"), lambda one: moment(one.created_at)),
        (N_("Who"), lambda one: text(one.actor)),
        (N_("What"), lambda one: text(one.action)),
        (N_("Of what"), lambda one: text(_subject(one), customer_page(one.user_id) if one.user_id else "")),
        (N_("Before"), lambda one: code(_short(one.before))),
        (N_("After"), lambda one: code(_short(one.after))),
        (N_("From"), lambda one: code(one.ip_address)),
        cursor=found.next_cursor,
        filters=(Filter("actor", N_("Who")), Filter("action", N_("What"))),
    )
    return await show_list(request, session, N_("Audit log"), table)


def _subject(one: Entry) -> str | None:
    return one.resource_type and f"{one.resource_type} {one.resource_id or ''}"


def _short(value: object) -> str | None:
    """Return the fields of a change, as many as a table has room for."""
    if not isinstance(value, dict):
        return None
    said = ", ".join(f"{name}: {what}" for name, what in value.items())
    return said if len(said) <= 160 else said[:157] + "…"
