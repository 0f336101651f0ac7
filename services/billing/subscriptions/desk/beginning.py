"""Begins subscriptions: to a plan, whose limits become quotas and whose trial comes first, or to a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.plans.terms import PlanTerms
from services.billing.subscriptions import store
from services.billing.subscriptions.desk.coupons import redeem
from services.billing.subscriptions.desk.reading import SQL
from services.billing.subscriptions.life import StepRefused, Subscription
from services.billing.subscriptions.steps import check_prepaid, limit, trial
from shared.ids import uuid7
from shared.money import minor_unit
from shared.period import month_start, next_month
from shared.postgres import Connection


@dataclass(frozen=True, slots=True)
class Wish:
    """A subscription that somebody wants: of a user, by id or e-mail address, to a plan or a model.

    `currency` None: the plan's. `amount`: a fee of its own per month in place of the plan's. Quotas are those of a subscription to a model.
    `pending`: it waits until it is activated, and has no trial then. `id`: that which gateways know it by already; None: a new one.
    """

    user: str
    plan_id: str | None = None
    model_id: str | None = None
    billing_mode: str = "postpaid"
    currency: str | None = None
    amount: Decimal = Decimal(0)
    quota_requests: int | None = None
    quota_tokens: int | None = None
    with_trial: bool = True
    pending: bool = False
    coupon: str | None = None
    expires_at: datetime | None = None
    id: UUID | None = None


async def begin_subscription(
    connection: Connection, wish: Wish, *, now: datetime, actor: str, why: str = ""
) -> Subscription:
    """Begin a subscription. Raises `StepRefused` with the reason: unknown user, plan, model or coupon, a currency that does not fit."""
    at = now.replace(microsecond=0)
    await store.act(connection, actor, why)
    user_id = await connection.fetchval(SQL["user"], wish.user)
    if user_id is None:
        raise StepRefused(f"there is no user {wish.user}: name one by id or e-mail address")
    terms = await _terms(connection, wish, at)
    currency = wish.currency or (terms.currency if terms else "")
    if wish.amount % minor_unit(currency):
        raise StepRefused(
            f"a fee of {wish.amount} {currency} has too many digits: the smallest amount is {minor_unit(currency)}"
        )
    double = await connection.fetchval(SQL["live_of_user"], user_id, wish.plan_id, wish.model_id)
    if double is not None:
        raise StepRefused(f"{wish.user} has a subscription to {wish.plan_id or wish.model_id} already: {double}")
    if wish.id is not None and await connection.fetchval(SQL["known_subscription"], wish.id):
        raise StepRefused(f"there is a subscription {wish.id} already")
    subscription = _subscription(wish, user_id, terms, at)
    await _insert(connection, subscription)
    await connection.execute(SQL["audit_created"], subscription.id, json.dumps({"why": why}) if why else None)
    if wish.coupon:
        await redeem(connection, subscription.id, wish.coupon, now=at, actor=actor)
    return await store.lock(connection, subscription.id)


async def _terms(connection: Connection, wish: Wish, at: datetime) -> PlanTerms | None:
    if (wish.plan_id is None) == (wish.model_id is None):
        raise StepRefused("a subscription is to a plan or to a model: name one of them")
    if wish.plan_id is None:
        if not await connection.fetchval(SQL["known_model"], wish.model_id):
            raise StepRefused(f"there is no model {wish.model_id} that can be subscribed to")
        if wish.currency is None:
            raise StepRefused("say in which currency a subscription to a model is billed")
        return None
    terms = await store.open_terms(connection, wish.plan_id, at)
    if wish.currency not in (None, terms.currency):
        raise StepRefused(f"plan {wish.plan_id} is billed in {terms.currency}, not in {wish.currency}")
    if (wish.quota_requests, wish.quota_tokens) != (None, None):
        raise StepRefused(f"the quotas of a subscription to a plan are the limits of the plan {wish.plan_id}")
    check_prepaid(wish.billing_mode, terms)
    return terms


def _subscription(wish: Wish, user_id: UUID, terms: PlanTerms | None, at: datetime) -> Subscription:
    tried = trial(terms, at) if wish.with_trial and not wish.pending else None
    yearly = terms is not None and terms.months % 12 == 0
    begun = Subscription(
        id=wish.id or uuid7(),
        user_id=user_id,
        model_id=wish.model_id,
        plan_id=wish.plan_id,
        status="pending" if wish.pending else "trialing" if tried else "active",
        status_before_suspension=None,
        suspended_reasons=(),
        billing_mode=wish.billing_mode,
        amount=wish.amount,
        currency=wish.currency or (terms.currency if terms else ""),
        interval="year" if yearly else "month",
        interval_count=1 if terms is None else terms.months // 12 if yearly else terms.months,
        quota_requests=wish.quota_requests if terms is None else limit(terms, "quota_requests"),
        quota_tokens=wish.quota_tokens if terms is None else limit(terms, "quota_tokens"),
        billing_anchor=None,
        anchor=at,
        current_period_start=None if wish.pending else at,
        current_period_end=None,
        trial_start=tried and tried[0],
        trial_end=tried and tried[1],
        cancel_at_period_end=False,
        expires_at=wish.expires_at,
        created_at=at,
    )
    if wish.pending:
        return begun
    # From its beginning, also where the interval begins with an earlier calendar month.
    return replace(begun, current_period_end=begun.interval_at(at, terms).end)


async def _insert(connection: Connection, s: Subscription) -> None:
    await connection.execute(
        SQL["insert"], s.id, s.user_id, s.model_id, s.plan_id, s.status, s.billing_mode, s.amount, s.currency, s.interval, s.interval_count,
        s.quota_requests, s.quota_tokens, month_start(s.created_at), next_month(s.created_at), s.current_period_start, s.current_period_end,
        s.trial_start, s.trial_end, s.expires_at, s.created_at,
    )  # fmt: skip
