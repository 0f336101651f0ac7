"""Who has not paid, what was done about it, and what comes next, by the steps that billing makes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.admin.listing import SQL, fetch_page
from services.api.auth.asking import Finance
from services.api.fields import Answer, Exact, Instant
from services.api.invoices.routes import Reference
from services.api.paging import Listing, Page
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from services.billing.invoices.reading import split_reference
from services.billing.payments.charging import CHARGING
from services.billing.payments.dunning import Made, next_step
from services.billing.payments.settings import PaymentSettings

router = APIRouter(prefix="/api/v1/admin", tags=["admin: money"])

Action = Literal["charge", "remind", "suspend"]


class Overdue(Answer):
    """An invoice that is due and not paid. Steps are counted from 1, as reminders name them."""

    id: UUID
    number: str
    user_id: UUID
    email: str
    status: str
    currency: str
    total: Exact
    outstanding: Exact
    due_date: Instant
    disputed_at: Instant | None = Field(description="Since when it is disputed: no step is made meanwhile.")
    dispute_reason: str | None
    under_way: bool = Field(description="Whether a charge of it is under way: no step is made meanwhile.")
    last_step: int | None
    last_action: Action | None
    last_at: Instant | None
    suspended: bool = Field(description="Whether the customer's subscriptions are suspended for it.")
    next_step: int | None = Field(description="Null where all steps are made.")
    next_action: Action | None
    next_at: Instant | None = Field(
        description="When it is due; made by the hourly job `dun`, unless disputed or under way."
    )


class Step(Answer):
    """A step that was made about an invoice."""

    step: int
    action: Action
    due_at: Instant
    made_at: Instant
    payment_id: UUID | None
    payment_status: str | None = Field(description="How the charge ended, if it was one.")
    lifted_at: Instant | None = Field(description="Of a suspension: when it ended, because all was paid.")


class History(Answer):
    """What was done about an invoice, and what comes next."""

    invoice: Overdue | None = Field(description="Null where nothing of it is due.")
    days: list[int] = Field(description="Days after the due date on which payment is asked for.")
    suspends: bool = Field(description="Whether a suspension follows the last of these.")
    steps: list[Step]


@router.get("/dunning")
async def list_overdue(
    request: Request, principal: Finance, paging: Page, user: str | None = None, disputed: bool | None = None
) -> Listing[Overdue]:
    """List invoices that are due and not paid, the longest due first, with the step that was made last and the one that is next."""
    state = state_of(request)
    settings, now = state.capabilities.billing, state.clock.now()
    async with state.database.reading(principal) as connection:
        return await fetch_page(
            connection, "overdue", {"user": user, "disputed": disputed}, paging, Overdue, key=("due_date", "id"),
            beside=(now, list(CHARGING), None), complete=lambda row: _with_next(row, settings),
        )  # fmt: skip


@router.get("/invoices/{reference}/dunning")
async def show_dunning(request: Request, principal: Finance, reference: Reference) -> History:
    """Show what was done about an invoice that is not paid, and what comes next."""
    state = state_of(request)
    settings, now = state.capabilities.billing, state.clock.now()
    async with state.database.reading(principal) as connection:
        id_ = await connection.fetchval(SQL["issued_invoice"], *split_reference(reference))
        if id_ is None:
            raise Problem(NOT_FOUND, f"there is no issued invoice {reference}")
        row = await connection.fetchrow(SQL["overdue"], None, None, now, list(CHARGING), id_, None, None, 1, 0)
        steps = await connection.fetch(SQL["dunning_steps"], id_)
    return History(
        invoice=Overdue.model_validate(_with_next(row, settings)) if row else None,
        days=list(settings.dunning_schedule),
        suspends=settings.dunning_suspends,
        steps=[Step.model_validate(dict(step)) for step in steps],
    )


def _with_next(row: Mapping[str, Any], settings: PaymentSettings) -> dict[str, Any]:
    """Return a row of `overdue` with the step that follows the last one."""
    facts = dict(row)
    chargeable, due_date = facts.pop("chargeable"), facts["due_date"]
    made = Made(row["last_step"], row["last_action"], row["last_at"]) if row["last_action"] else None
    step = next_step(
        settings.dunning_schedule, due_date, made, chargeable=chargeable, suspend=settings.dunning_suspends
    )
    at: datetime | None = step.due_at if step else None
    return {
        **facts,
        "last_step": made.step + 1 if made else None,
        "next_step": step.number + 1 if step else None,
        "next_action": step.action if step else None,
        "next_at": at,
    }
