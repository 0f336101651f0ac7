"""Subscriptions, and the steps of their life: begun, changed at once or ahead of their time, suspended, ended."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.admin.fields import Count, Currency, Id, MaybeWhy, Named, Why
from services.api.admin.listing import SQL, Json, fetch_page
from services.api.auth.asking import Administrator
from services.api.auth.principal import Principal
from services.api.fields import Amount, Answer, Body, Instant
from services.api.paging import Listing, Page
from services.api.problems import INVALID_REQUEST, NOT_FOUND, Problem
from services.api.state import state_of
from services.billing.subscriptions.changes import Kind
from services.billing.subscriptions.desk import changing, reading
from services.billing.subscriptions.desk.beginning import Wish, begin_subscription
from services.billing.subscriptions.desk.coupons import redeem
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


class Step(Body):
    """A step that is taken at once."""

    why: MaybeWhy = ""


class TimedStep(Step):
    """A step that is taken at once, or later: at a time, or when the billing period ends."""

    at: Instant | None = Field(None, description="When, in the future; now without it.")
    at_period_end: bool = False

    @property
    def when(self) -> changing.When:
        """When it is to be taken. Raises `Problem` for two times."""
        if self.at is not None and self.at_period_end:
            raise Problem(INVALID_REQUEST, "at and at_period_end exclude each other: choose one")
        return "period_end" if self.at_period_end else self.at or "now"


class PlanChange(TimedStep):
    """Another plan."""

    plan: Id


class Suspension(Body):
    """A suspension by a person's word; quotas, credits and payments suspend by themselves."""

    why: Why


class Reactivation(Step):
    """A reason of a suspension that is to go."""

    reason: Literal["admin", "payment_overdue", "credits_exhausted"] = "admin"


class Withdrawal(Step):
    """Changes that are not to be made after all."""

    kind: Kind | None = Field(None, description="Which; all without it.")


class Withdrawn(Answer):
    """How many planned changes were taken back."""

    changes: int


class Quotas(Body):
    """Quotas of one quota period; null is unlimited. A quota that is left out stays as it is."""

    quota_requests: Count | None = None
    quota_tokens: Count | None = None
    why: Why


class Coupon(Body):
    """A coupon that is to be redeemed."""

    code: Id


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
        return await _shown(connection, begun.id)


@router.post("/{subscription_id}/activate")
async def activate_subscription(
    request: Request, principal: Administrator, subscription_id: UUID, body: Step
) -> Subscription:
    """Begin what is pending, renew what has expired; of what is suspended it takes the reason `admin` away."""
    return await _reactivate(request, principal, subscription_id, "admin", body.why)


@router.post("/{subscription_id}/reactivate")
async def reactivate_subscription(
    request: Request, principal: Administrator, subscription_id: UUID, body: Reactivation
) -> Subscription:
    """Take a reason of a suspension away. It is active again once no reason is left."""
    return await _reactivate(request, principal, subscription_id, body.reason, body.why)


@router.post("/{subscription_id}/suspend")
async def suspend_subscription(
    request: Request, principal: Administrator, subscription_id: UUID, body: Suspension
) -> Subscription:
    """Suspend a subscription until it is reactivated."""
    async with state_of(request).database.operating(principal, body.why) as connection:
        await changing.suspend(connection, subscription_id, "admin", actor=principal.name, why=body.why)
        return await _shown(connection, subscription_id)


@router.post("/{subscription_id}/pause")
async def pause_subscription(
    request: Request, principal: Administrator, subscription_id: UUID, body: TimedStep
) -> Subscription:
    """Pause a subscription: gateways refuse its requests, and what begins meanwhile costs no fee."""
    return await _change(request, principal, subscription_id, "pause", body)


@router.post("/{subscription_id}/resume")
async def resume_subscription(
    request: Request, principal: Administrator, subscription_id: UUID, body: TimedStep
) -> Subscription:
    """Go on with a paused subscription."""
    return await _change(request, principal, subscription_id, "resume", body)


@router.post("/{subscription_id}/cancel")
async def cancel_subscription(
    request: Request, principal: Administrator, subscription_id: UUID, body: TimedStep
) -> Subscription:
    """End a subscription for good: at once, at a time, or when its billing period ends."""
    return await _change(request, principal, subscription_id, "cancel", body)


@router.post("/{subscription_id}/change-plan")
async def change_subscription_plan(
    request: Request, principal: Administrator, subscription_id: UUID, body: PlanChange
) -> Subscription:
    """Change to another plan: at once, with the rest of the paid fee credited and the new one charged by the second, or later."""
    return await _change(request, principal, subscription_id, "plan", body, to_plan=body.plan)


@router.post("/{subscription_id}/withdraw")
async def withdraw_subscription_changes(
    request: Request, principal: Administrator, subscription_id: UUID, body: Withdrawal
) -> Withdrawn:
    """Take back changes that are planned and not due yet."""
    state = state_of(request)
    async with state.database.operating(principal, body.why) as connection:
        taken = await changing.withdraw(
            connection, subscription_id, body.kind, now=state.clock.now(), actor=principal.name, why=body.why
        )
    return Withdrawn(changes=taken)


@router.post("/{subscription_id}/redeem")
async def redeem_coupon(
    request: Request, principal: Administrator, subscription_id: UUID, body: Coupon
) -> Subscription:
    """Redeem a coupon: it counts from the first billing interval that begins from now on."""
    state = state_of(request)
    async with state.database.operating(principal) as connection:
        await redeem(connection, subscription_id, body.code, now=state.clock.now(), actor=principal.name)
        return await _shown(connection, subscription_id)


@router.patch("/{subscription_id}/quotas")
async def set_subscription_quotas(
    request: Request, principal: Administrator, subscription_id: UUID, body: Quotas
) -> Subscription:
    """Give a subscription quotas of its own. One that is used up suspends at once; a higher one reactivates."""
    state = state_of(request)
    given = body.model_dump(include=body.model_fields_set & {"quota_requests", "quota_tokens"})
    async with state.database.operating(principal, body.why) as connection:
        await changing.set_quotas(
            connection, subscription_id, given, now=state.clock.now(), actor=principal.name, why=body.why
        )
        return await _shown(connection, subscription_id)


async def _reactivate(
    request: Request, principal: Principal, subscription_id: UUID, reason: str, why: str
) -> Subscription:
    state = state_of(request)
    async with state.database.operating(principal, why) as connection:
        await changing.reactivate(
            connection, subscription_id, reason, now=state.clock.now(), actor=principal.name, why=why
        )
        return await _shown(connection, subscription_id)


async def _change(
    request: Request, principal: Principal, subscription_id: UUID, kind: Kind, body: TimedStep, *, to_plan: str | None = None
) -> Subscription:  # fmt: skip
    state = state_of(request)
    async with state.database.operating(principal, body.why) as connection:
        await changing.change(
            connection, subscription_id, kind, when=body.when, now=state.clock.now(), actor=principal.name, why=body.why, to_plan=to_plan
        )  # fmt: skip
        return await _shown(connection, subscription_id)


async def _shown(connection: Connection, subscription_id: UUID) -> Subscription:
    return Subscription.model_validate(await _row(connection, subscription_id))


async def _row(connection: Connection, subscription_id: UUID) -> dict[str, Any]:
    row = await connection.fetchrow(SQL["subscription"], subscription_id)
    if row is None:
        raise Problem(NOT_FOUND, f"there is no subscription {subscription_id}")
    return dict(row)
