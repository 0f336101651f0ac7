"""The audit trail: who did what to whom, before and after."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request

from services.api.admin.listing import Json, fetch_page
from services.api.auth.asking import Administrator
from services.api.fields import Answer, Instant
from services.api.paging import Listing, Page
from services.api.state import state_of

router = APIRouter(prefix="/api/v1/admin/audit", tags=["admin: audit"])


class Entry(Answer):
    """An entry of the trail. `admin_id` is the user who acted, where one did and it is not the one concerned, `user_id`.

    `ip_address`, `user_agent` and `request_id`, as the access log has it, are those of the request, if it was one over HTTP; refunds,
    replays and runs of jobs have transactions of their own and are without them.
    """

    id: UUID
    created_at: Instant
    actor: str
    admin_id: UUID | None
    user_id: UUID | None
    action: str
    resource_type: str | None
    resource_id: str | None
    before: Json
    after: Json
    details: Json
    ip_address: str | None
    user_agent: str | None
    request_id: str | None


@router.get("")
async def list_audit_entries(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    actor: str | None = None,
    user: Annotated[UUID | None, Query(description="Who acted, or is concerned.")] = None,
    action: Annotated[
        str | None, Query(description="An action, or the kind of it: subscription.suspended, or subscription.")
    ] = None,
    resource_type: str | None = None,
    resource_id: str | None = None,
    since: Instant | None = None,
    until: Annotated[Instant | None, Query(description="Not included.")] = None,
) -> Listing[Entry]:
    """List entries of the audit trail, the newest first."""
    filters = {
        "actor": actor, "user": user, "action": action, "resource_type": resource_type, "resource_id": resource_id,
        "since": since, "until": until,
    }  # fmt: skip
    async with state_of(request).database.reading(principal) as connection:
        return await fetch_page(connection, "audit", filters, paging, Entry)
