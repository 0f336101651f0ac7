"""Routes of subscriptions and quotas."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.api.auth.asking import Asking
from services.api.fields import Answer, Exact, Instant
from services.api.paging import Listing, Page, page
from services.api.problems import NOT_FOUND, Problem
from services.api.scope import Owner, Whose
from services.api.state import state_of
from shared.period import day_start
from shared.sql import Queries

router = APIRouter(prefix="/api/v1", tags=["subscriptions"])

_SQL: Final = Queries.load("services.api.subscriptions")

Status = Literal["pending", "trialing", "active", "paused", "suspended", "cancelled", "expired"]


class Limit(Answer):
    """A limit and how much of it is used. `quota` and `remaining` are null where there is no limit."""

    quota: int | None
    used: int
    remaining: int | None


class Subscription(Answer):
    """What somebody may use, how much of it, and how it is paid."""

    id: UUID
    user_id: UUID
    model_id: str | None
    plan_id: str | None
    status: Status
    suspended_reasons: list[str] = Field(description="Why it is suspended; empty where it is not.")
    billing_mode: Literal["prepaid", "postpaid"]
    amount: Exact = Field(description="A fee of its own in place of the plan's; 0: the plan's.")
    currency: str
    interval: Literal["month", "year"]
    interval_count: int
    requests: Limit
    tokens: Limit
    quota_period_start: Instant
    reset_at: Instant | None = Field(description="When what is used counts from nothing again; null: never.")
    current_period_start: Instant | None
    current_period_end: Instant | None
    trial_start: Instant | None
    trial_end: Instant | None
    cancel_at_period_end: bool
    expires_at: Instant | None
    created_at: Instant


class KeyQuota(Answer):
    """What an API key may do. Days are days of UTC."""

    api_key_id: UUID
    name: str | None
    key_prefix: str
    requests_per_minute: int | None
    requests_per_day: Limit
    resets_at: Instant


class Quota(Answer):
    """What remains of a subscription, and when it resets."""

    subscription_id: UUID
    model_id: str | None
    plan_id: str | None
    status: Status
    suspended_reasons: list[str]
    requests: Limit
    tokens: Limit
    quota_period_start: Instant
    reset_at: Instant | None
    keys: list[KeyQuota]


class Quotas(Answer):
    """The quotas of all subscriptions that are not at their end."""

    as_of: Instant
    items: list[Quota]


@router.get("/subscriptions")
async def list_subscriptions(
    *,
    request: Request,
    principal: Asking,
    user: Whose,
    paging: Page,
    status: Annotated[Status | None, Query(description="Only those in this status.")] = None,
) -> Listing[Subscription]:
    """Subscriptions, the newest first."""
    asked = {"list": "subscriptions", "user": user, "status": status}
    after = paging.key(asked, datetime, UUID)
    async with state_of(request).database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["subscriptions"], user, status, *after, paging.offset, paging.limit + 1)
        total = await connection.fetchval(_SQL["count_subscriptions"], user, status) if paging.counted else None
    shown, cursor = page(rows, paging, asked, lambda row: (row["created_at"], row["id"]))
    return Listing(items=[_subscription(row) for row in shown], next_cursor=cursor, total=total)


@router.get("/subscriptions/{subscription_id}")
async def read_subscription(request: Request, principal: Asking, subscription_id: UUID) -> Subscription:
    """One subscription, with what remains of its quotas."""
    async with state_of(request).database.reading(principal) as connection:
        row = await connection.fetchrow(_SQL["subscription"], subscription_id)
    if row is None:
        raise _unknown(subscription_id)
    return _subscription(row)


@router.get("/quotas")
async def read_quotas(
    *,
    request: Request,
    principal: Asking,
    user: Owner,
    subscription_id: Annotated[UUID | None, Query(description="Only of this subscription.")] = None,
) -> Quotas:
    """What remains of each subscription and each API key, and when it resets."""
    state = state_of(request)
    today = day_start(state.clock.now())
    async with state.database.reading(principal) as connection:
        rows = await connection.fetch(_SQL["quotas"], user, subscription_id)
        if subscription_id is not None and not rows:
            raise _unknown(subscription_id)
        ids = [row["subscription_id"] for row in rows]
        keys = await connection.fetch(_SQL["key_quotas"], ids, today.date())
    of: dict[UUID, list[KeyQuota]] = {id_: [] for id_ in ids}
    for key in keys:
        of[key["subscription_id"]].append(_key_quota(key, today + timedelta(days=1)))
    return Quotas(as_of=state.clock.now(), items=[_quota(row, of[row["subscription_id"]]) for row in rows])


def limit(quota: int | None, used: int) -> Limit:
    """Return a limit with what remains of it: never less than nothing."""
    return Limit(quota=quota, used=used, remaining=None if quota is None else max(quota - used, 0))


def _limits(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = dict(row)
    return {
        "requests": limit(facts.pop("quota_requests"), facts.pop("used_requests")),
        "tokens": limit(facts.pop("quota_tokens"), facts.pop("used_tokens")),
        **facts,
    }


def _subscription(row: Mapping[str, Any]) -> Subscription:
    return Subscription(**_limits(row))


def _quota(row: Mapping[str, Any], keys: list[KeyQuota]) -> Quota:
    return Quota(keys=keys, **_limits(row))


def _key_quota(row: Mapping[str, Any], resets_at: datetime) -> KeyQuota:
    return KeyQuota(
        api_key_id=row["api_key_id"],
        name=row["name"],
        key_prefix=row["key_prefix"],
        requests_per_minute=row["quota_requests_per_minute"],
        requests_per_day=limit(row["quota_requests_per_day"], row["used_requests_today"]),
        resets_at=resets_at,
    )


def _unknown(subscription_id: UUID) -> Problem:
    return Problem(NOT_FOUND, f"there is no subscription {subscription_id}")
