"""Subscriptions, and the steps of their life: begun, changed at once or ahead of their time, suspended, ended."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.admin.fields import Count, Currency, Id, MaybeWhy, Named
from services.api.admin.listing import SQL, Json, fetch_page
from services.api.auth.asking import Administrator
from services.api.fields import Amount, Answer, Body, Instant
from services.api.paging import Listing, Page
from services.api.problems import NOT_FOUND, Problem
from services.api.state import state_of
from services.billing.subscriptions.desk import reading
from services.billing.subscriptions.desk.beginning import Wish, begin_subscription
from shared.postgres import Connection

router = APIRouter(prefix="/api/v1/admin/subscriptions", tags=["admin: subscriptions"])

HISTORY = 50
"""Most entries of the audit trail that one subscription is shown with."""


class Subscription(Answer):
    """A subscription, and what of its quotas is used."""

    id: UUID
    user_id: UUID
    email: str
    plan_id: str | None
    model_id: str | None
    status: str
    suspended_reasons: list[str]
    billing_mode: str
    currency: str
    amount: Amount = Field(description="A fee of its own in place of the plan's; 0: the plan's.")
    quota_requests: int | None
    quota_tokens: int | None
    used_requests: int
    used_tokens: int
    reset_at: Instant | None
    current_period_start: Instant | None
    current_period_end: Instant | None
    trial_end: Instant | None
    cancel_at_period_end: bool
    expires_at: Instant | None
    created_at: Instant


class Planned(Answer):
    """A change that was asked for ahead of its time."""

    id: UUID
    kind: str
    effective_at: Instant
    to_plan_id: str | None
    requested_by: str
    why: str | None


class Redeemed(Answer):
    """A coupon that a subscription has redeemed."""

    code: str
    redeemed_at: Instant


class Done(Answer):
    """What was done with a subscription."""

    created_at: Instant
    actor: str
    action: str
    before: Json
    after: Json
    details: Json


class WholeSubscription(Subscription):
    """A subscription with what is planned for it, what it redeemed, and what was done with it, the last first."""

    planned: list[Planned]
    coupons: list[Redeemed]
    history: list[Done]


class Beginning(Body):
    """A subscription that is to begin, to a plan or to a model."""

    user: Named
    plan: Id | None = None
    model: Id | None = None
    billing_mode: Literal["prepaid", "postpaid"] = "postpaid"
    currency: Currency | None = Field(None, description="Of a subscription to a model; a plan has its own.")
    fee: Amount = Field(Decimal(0), ge=0, description="A fee of its own, in place of the plan's.")
    quota_requests: Count | None = Field(None, description="Of a subscription to a model, per month.")
    quota_tokens: Count | None = Field(None, description="Of a subscription to a model, per month.")
    trial: bool = Field(True, description="Whether the trial of the plan comes first.")
    pending: bool = Field(False, description="Whether it waits until it is activated.")
    coupon: Id | None = None
    expires_at: Instant | None = None
    why: MaybeWhy = ""


@router.get("")
async def list_all_subscriptions(
    request: Request,
    principal: Administrator,
    paging: Page,
    *,
    user: str | None = None,
    to: str | None = None,
    status: str | None = None,
) -> Listing[Subscription]:
    """List subscriptions, the newest first: of a user (id or e-mail address), `to` a plan or model, in a status."""
    async with state_of(request).database.reading(principal) as connection:
        filters = {"user": user, "to": to, "status": status}
        return await fetch_page(connection, "subscriptions", filters, paging, Subscription)


@router.get("/{subscription_id}")
async def show_subscription(request: Request, principal: Administrator, subscription_id: UUID) -> WholeSubscription:
    """Show a subscription, what is planned for it, and what was done with it."""
    async with state_of(request).database.reading(principal) as connection:
        return WholeSubscription.model_validate({
            **await _row(connection, subscription_id),
            "planned": await reading.open_changes(connection, subscription_id),
            "coupons": await reading.coupons_of(connection, subscription_id),
            "history": await reading.history(connection, subscription_id, HISTORY),
        })  # fmt: skip


@router.post("", status_code=201)
async def create_subscription(request: Request, principal: Administrator, body: Beginning) -> Subscription:
    """Begin a subscription to a plan or to a model."""
    state = state_of(request)
    wish = Wish(
        user=body.user, plan_id=body.plan, model_id=body.model, billing_mode=body.billing_mode, currency=body.currency, amount=body.fee,
        quota_requests=body.quota_requests, quota_tokens=body.quota_tokens, with_trial=body.trial, pending=body.pending,
        coupon=body.coupon, expires_at=body.expires_at,
    )  # fmt: skip
    async with state.database.operating(principal, body.why) as connection:
        begun = await begin_subscription(connection, wish, now=state.clock.now(), actor=principal.name, why=body.why)
        return await shown(connection, begun.id)


async def shown(connection: Connection, subscription_id: UUID) -> Subscription:
    """Return a subscription as it is now. Raises `Problem` (404)."""
    return Subscription.model_validate(await _row(connection, subscription_id))


async def _row(connection: Connection, subscription_id: UUID) -> dict[str, Any]:
    row = await connection.fetchrow(SQL["subscription"], subscription_id)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no subscription {subscription_id}")
    return dict(row)
