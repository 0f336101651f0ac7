"""The steps of subscriptions' lives: taken at once or ahead of their time, as the commands take them."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field

from services.api.admin.fields import Count, Id, MaybeWhy, Why
from services.api.admin.subscriptions import Subscription, shown
from services.api.auth.asking import Administrator
from services.api.auth.principal import Principal
from services.api.fields import Answer, Body, Instant
from services.api.problems import INVALID_REQUEST, Problem
from services.api.state import state_of
from services.billing.subscriptions.changes import Kind
from services.billing.subscriptions.desk import changing
from services.billing.subscriptions.desk.coupons import redeem

router = APIRouter(prefix="/api/v1/admin/subscriptions", tags=["admin: subscriptions"])


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
        return await shown(connection, subscription_id)


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
        return await shown(connection, subscription_id)


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
        return await shown(connection, subscription_id)


async def _reactivate(
    request: Request, principal: Principal, subscription_id: UUID, reason: str, why: str
) -> Subscription:
    state = state_of(request)
    async with state.database.operating(principal, why) as connection:
        await changing.reactivate(
            connection, subscription_id, reason, now=state.clock.now(), actor=principal.name, why=why
        )
        return await shown(connection, subscription_id)


async def _change(
    request: Request, principal: Principal, subscription_id: UUID, kind: Kind, body: TimedStep, *, to_plan: str | None = None
) -> Subscription:  # fmt: skip
    state = state_of(request)
    async with state.database.operating(principal, body.why) as connection:
        await changing.change(
            connection, subscription_id, kind, when=body.when, now=state.clock.now(), actor=principal.name, why=body.why, to_plan=to_plan
        )  # fmt: skip
        return await shown(connection, subscription_id)
