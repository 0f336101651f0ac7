"""Routes of alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.auth.asking import Asking
from services.api.database import BILLING
from services.api.fields import Answer, Body, Exact, Instant
from services.api.paging import Listing, Page, page
from services.api.problems import NOT_FOUND, Problem
from services.api.scope import Whose
from services.api.state import state_of
from services.billing.notices.alerts import mark_all_read, mark_read
from shared.sql import Queries

router = APIRouter(prefix="/api/v1", tags=["alerts"])

_SQL: Final = Queries.load("services.api.alerts")

AlertType = Literal[
    "usage_threshold", "payment_failed", "payment_disputed", "invoice_overdue", "subscription_expiring", "low_balance", "credits_exhausted",
    "unrated_usage", "webhook_disabled", "provider_key_due",
]  # fmt: skip


class Alert(Answer):
    """What somebody was told about usage and money, once for each cause."""

    id: UUID
    user_id: UUID
    subscription_id: UUID | None
    type: str
    cause: str | None = Field(description="What it is about: the same is not told twice.")
    threshold: Exact | None
    current_value: Exact | None
    message: str
    is_read: bool
    read_at: Instant | None
    created_at: Instant


class ReadUntil(Body):
    """Which alerts were read."""

    until: Instant = Field(
        description="Those raised up to this moment, such as `created_at` of the newest that was shown."
    )


class Marked(Answer):
    """How many alerts are read now that were not before."""

    marked: int


@router.get("/alerts")
async def list_alerts(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    paging: Page,
    type_: Annotated[AlertType | None, Query(alias="type", description="Only of this type.")] = None,
    unread: Annotated[bool, Query(description="Only those that were not read yet.")] = False,
) -> Listing[Alert]:
    """Alerts about usage and money, the newest first."""
    asked = {"list": "alerts", "user": user, "type": type_, "unread": unread}
    after = paging.key(asked, datetime, UUID)
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["alerts"], user, type_, unread, *after, paging.offset, paging.limit + 1)
        total = await connection.fetchval(_SQL["count_alerts"], user, type_, unread) if paging.counted else None
    shown, cursor = page(rows, paging, asked, lambda row: (row["created_at"], row["id"]))
    return Listing(items=[Alert(**row) for row in shown], next_cursor=cursor, total=total)


@router.put("/alerts/{alert_id}/read")
async def mark_alert_read(request: Request, principal: Asking, alert_id: UUID) -> Alert:
    """Say that an alert of who asks was read. It keeps the time of the first time."""
    state = state_of(request)
    async with state.database.writing(principal, role=BILLING) as connection:
        row = await mark_read(connection, principal.user_id, alert_id, at=state.clock.now())
    if row is None:
        raise Problem(NOT_FOUND, f"there is no alert {alert_id} of yours")
    return Alert(**row)


@router.post("/alerts/read")
async def mark_alerts_read(request: Request, principal: Asking, body: ReadUntil) -> Marked:
    """Say that all alerts of who asks were read, up to a moment: what came after it stays unread."""
    state = state_of(request)
    async with state.database.writing(principal, role=BILLING) as connection:
        return Marked(marked=await mark_all_read(connection, principal.user_id, body.until, at=state.clock.now()))
