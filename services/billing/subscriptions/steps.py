"""The steps of a subscription's life (pure): each takes it as it is, and returns it as it becomes.

Times are whole seconds: what is charged follows from them (services/billing/plans).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from services.billing.plans.terms import PlanTerms
from services.billing.subscriptions.life import LIMITS, MAY_BECOME, Status, StepRefused, Subscription

_HOW: Final[dict[tuple[Status, Status], str]] = {
    ("suspended", "paused"): "clear the reasons of its suspension first",
    ("suspended", "active"): "clear the reasons of its suspension first",
    ("paused", "suspended"): "resume it first",
    ("expired", "paused"): "renew it first",
    ("pending", "paused"): "activate it first",
}


def become(subscription: Subscription, status: Status) -> Subscription:
    """Return it with another status. Raises `StepRefused` for a step that there is not."""
    if status not in MAY_BECOME[subscription.status]:
        reasons = f" ({', '.join(subscription.suspended_reasons)})" if subscription.suspended_reasons else ""
        if subscription.status == status:
            raise StepRefused(f"subscription {subscription.id} is {status}{reasons} already")
        what_to_do = "a cancelled subscription is final, make a new one" if subscription.status == "cancelled" else (
            _HOW.get((subscription.status, status), "see its life in docs/reference/schema.md")
        )  # fmt: skip
        raise StepRefused(
            f"subscription {subscription.id} is {subscription.status}{reasons} and cannot become {status}: {what_to_do}"
        )
    return replace(subscription, status=status)


def activate(subscription: Subscription, at: datetime, terms: PlanTerms | None) -> Subscription:
    """Begin what is pending, or end a trial: billing intervals count from here."""
    if subscription.status == "suspended" and subscription.in_trial:
        begun = replace(subscription, status_before_suspension="active")
    else:
        begun = become(subscription, "active")
    return _anchored(begun, at, terms)


def renew(subscription: Subscription, at: datetime, terms: PlanTerms | None) -> Subscription:
    """Let what has expired begin anew."""
    if subscription.status != "expired":
        raise StepRefused(f"subscription {subscription.id} is {subscription.status}: only an expired one is renewed")
    return _anchored(replace(become(subscription, "active"), expires_at=None), at, terms)


def _anchored(subscription: Subscription, at: datetime, terms: PlanTerms | None) -> Subscription:
    moved = replace(subscription, billing_anchor=at, anchor=at)
    return _in_interval(moved, at, terms)


def _in_interval(subscription: Subscription, at: datetime, terms: PlanTerms | None) -> Subscription:
    interval = subscription.interval_at(at, terms)
    return replace(subscription, current_period_start=interval.start, current_period_end=interval.end)


def pause(subscription: Subscription) -> Subscription:
    """Stop it for a while. What is paid for is not given back; what begins meanwhile costs nothing."""
    return become(subscription, "paused")


def resume(subscription: Subscription, at: datetime, terms: PlanTerms | None) -> Subscription:
    """Go on with what was paused, in the interval that it would be in."""
    if subscription.status != "paused":
        raise StepRefused(f"subscription {subscription.id} is {subscription.status}: only a paused one is resumed")
    return _in_interval(become(subscription, "active"), at, terms)


def cancel(subscription: Subscription) -> Subscription:
    """End it for good."""
    return become(subscription, "cancelled")


def cancel_at_period_end(subscription: Subscription, *, cancel: bool = True) -> Subscription:
    """Let it end with its billing interval, or take that back."""
    if subscription.ended:
        raise StepRefused(f"subscription {subscription.id} is {subscription.status} already")
    if cancel and subscription.current_period_end is None and subscription.status == "pending":
        raise StepRefused(f"subscription {subscription.id} has not begun: cancel it now")
    return replace(subscription, cancel_at_period_end=cancel)


def expire(subscription: Subscription) -> Subscription:
    """End it because its time is over; it can be renewed."""
    return become(subscription, "expired")


def roll(
    subscription: Subscription, at: datetime, terms: PlanTerms | None, before: PlanTerms | None = None
) -> Subscription:
    """Move on to the billing interval that begins at (or holds) a time; `before` are the terms of the one that ends.

    Limits that another version of the plan has become the quotas, unless somebody gave the subscription quotas of its own.
    """
    moved = _in_interval(subscription, at, terms)
    if terms is None or before is None or terms.id == before.id:
        return moved
    requests, tokens = (
        limit(terms, quota) if getattr(subscription, quota) == limit(before, quota) else getattr(subscription, quota)
        for quota in LIMITS
    )
    return replace(moved, quota_requests=requests, quota_tokens=tokens)


def with_quotas(subscription: Subscription, quotas: Mapping[str, int | None]) -> Subscription:
    """Give it quotas of its own, by their names; None is unlimited."""
    if subscription.ended:
        raise StepRefused(f"subscription {subscription.id} is {subscription.status}: it has no quotas any more")
    return replace(
        subscription,
        quota_requests=quotas.get("quota_requests", subscription.quota_requests),
        quota_tokens=quotas.get("quota_tokens", subscription.quota_tokens),
    )


def change_plan(subscription: Subscription, before: PlanTerms | None, terms: PlanTerms, at: datetime) -> Subscription:
    """Put it on another plan: its limits become the quotas, its fee replaces one of its own; a plan with other intervals begins them now.

    Raises `StepRefused` for a subscription to a model or one that has ended, the plan it has, and another currency.
    """
    _check_plan(subscription, terms)
    changed = replace(
        subscription,
        plan_id=terms.plan_id,
        amount=Decimal(0),
        interval="year" if terms.months % 12 == 0 else "month",
        interval_count=terms.months // 12 if terms.months % 12 == 0 else terms.months,
        quota_requests=limit(terms, "quota_requests"),
        quota_tokens=limit(terms, "quota_tokens"),
    )
    same_grid = (
        before is not None and (before.calendar, subscription.months(before)) == (terms.calendar, changed.months(terms))
    )  # fmt: skip
    if same_grid or subscription.in_trial or subscription.status == "pending":
        return changed
    return _anchored(changed, at, terms)


def _check_plan(subscription: Subscription, terms: PlanTerms) -> None:
    if subscription.model_id is not None:
        raise StepRefused(
            f"subscription {subscription.id} is for the model {subscription.model_id}: it has no plan to change"
        )
    if subscription.ended:
        raise StepRefused(f"subscription {subscription.id} is {subscription.status}: its plan cannot change any more")
    if subscription.plan_id == terms.plan_id:
        raise StepRefused(f"subscription {subscription.id} is on plan {terms.plan_id} already")
    if subscription.currency != terms.currency:
        raise StepRefused(
            f"subscription {subscription.id} is billed in {subscription.currency}, plan {terms.plan_id} in {terms.currency}: "
            "end it and begin another one"
        )
    check_prepaid(subscription.billing_mode, terms)


def check_prepaid(billing_mode: str, terms: PlanTerms) -> None:
    """Raise `StepRefused` for a prepaid subscription to a plan that charges by usage: its usage debits credits, at prices."""
    if billing_mode == "prepaid" and terms.concerns_usage:
        raise StepRefused(
            f"plan {terms.plan_id} includes usage or charges for it by tiers or a minimum, and prepaid usage debits credits at its prices: "
            "take a plan with a flat fee only, or a postpaid subscription"
        )


def limit(terms: PlanTerms, quota: str) -> int | None:
    """Return a quota as a plan has it: its limit, where that is hard."""
    wanted = terms.limits.get(LIMITS[quota]) if terms.hard_limits else None
    return None if wanted is None else int(wanted)


def trial(terms: PlanTerms | None, at: datetime) -> tuple[datetime, datetime] | None:
    """Return the trial that a plan gives to what begins at a time."""
    return (at, at + timedelta(days=terms.trial_days)) if terms is not None and terms.trial_days else None
