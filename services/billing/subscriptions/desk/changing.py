"""Changes subscriptions: at once, or asked for ahead of their time and applied by a job. Each in one transaction of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg

from services.billing.subscriptions import steps, store
from services.billing.subscriptions.changes import Kind, apply, stepped
from services.billing.subscriptions.desk.reading import SQL
from services.billing.subscriptions.life import StepRefused, Subscription
from shared.ids import uuid7
from shared.postgres import Connection

When = datetime | Literal["now", "period_end"]


async def change(
    connection: Connection,
    subscription_id: UUID,
    kind: Kind,
    *,
    when: When,
    now: datetime,
    actor: str,
    why: str = "",
    to_plan: str | None = None,
) -> Subscription:
    """Change a subscription now, or note that it shall be changed. Raises `StepRefused` for a step that it could not take now either.

    A cancellation at the end of the period is a mark on the subscription; anything else ahead of time is a row of subscription_changes.
    """
    now = now.replace(microsecond=0)
    await store.act(connection, actor, why)
    subscription = await store.lock(connection, subscription_id)
    if when == "now":
        return await apply(connection, subscription, kind, at=now, to_plan=to_plan)
    if kind == "cancel" and when == "period_end":
        return await store.save(connection, steps.cancel_at_period_end(subscription), since=now)
    at = _ahead(subscription, when, now)
    await stepped(connection, subscription, kind, at=now, to_plan=to_plan)  # refused now: refused then
    await _schedule(connection, subscription, kind, at, to_plan, actor=actor, why=why)
    return subscription


def _ahead(subscription: Subscription, when: When, now: datetime) -> datetime:
    if isinstance(when, datetime):
        if when <= now:
            raise StepRefused(f"{when.isoformat()} is past: leave the time out to change the subscription now")
        return when.replace(microsecond=0)
    if subscription.current_period_end is None or subscription.current_period_end <= now:
        raise StepRefused(f"subscription {subscription.id} has no billing period that ends: name a time")
    return subscription.current_period_end.replace(microsecond=0)


async def _schedule(
    connection: Connection, subscription: Subscription, kind: Kind, at: datetime, to_plan: str | None, *, actor: str, why: str
) -> None:  # fmt: skip
    try:
        async with connection.transaction():
            await connection.execute(SQL["schedule"], uuid7(), subscription.id, kind, at, to_plan, actor, why or None)
    except asyncpg.UniqueViolationError:
        raise StepRefused(
            f"a change of that kind ({kind}) is asked for already: see 'tallystick subscription show {subscription.id}', "
            f"take it back with 'tallystick subscription withdraw {subscription.id} {kind}' first"
        ) from None


async def set_quotas(
    connection: Connection,
    subscription_id: UUID,
    quotas: Mapping[str, int | None],
    *,
    now: datetime,
    actor: str,
    why: str = "",
) -> Subscription:
    """Give a subscription quotas of its own: `quota_requests` and `quota_tokens`, None is unlimited. Raises `StepRefused` for one that has ended.

    A plan's new version, which would else bring its limits along, leaves them as they are.
    """
    await store.act(connection, actor, why)
    return await store.save(
        connection, steps.with_quotas(await store.lock(connection, subscription_id), quotas), since=now
    )


async def withdraw(
    connection: Connection, subscription_id: UUID, kind: Kind | None, *, now: datetime, actor: str, why: str = ""
) -> int:
    """Take back what was asked for and is not due yet, of one kind or all; return how many changes that was."""
    await store.act(connection, actor, why)
    subscription = await store.lock(connection, subscription_id)
    rows = await connection.fetch(SQL["withdraw"], subscription_id, kind)
    if subscription.cancel_at_period_end and kind in (None, "cancel"):
        await store.save(connection, steps.cancel_at_period_end(subscription, cancel=False), since=now)
        return len(rows) + 1
    return len(rows)


async def suspend(
    connection: Connection, subscription_id: UUID, reason: str, *, actor: str, why: str = ""
) -> Subscription:
    """Add a reason to suspend a subscription for. Raises `StepRefused` where it has that reason, or cannot be suspended."""
    await store.act(connection, actor, why)
    before = await store.lock(connection, subscription_id)
    if before.status not in ("active", "trialing", "suspended"):
        steps.become(before, "suspended")  # says why not
    try:
        async with connection.transaction():
            changed = await connection.fetchval(SQL["suspend"], subscription_id, reason)
    except asyncpg.PostgresError as error:
        raise store.refusal(error) from error
    if not changed:
        raise StepRefused(f"subscription {subscription_id} is suspended for {reason} already")
    return await store.lock(connection, subscription_id)


async def reactivate(
    connection: Connection, subscription_id: UUID, reason: str, *, now: datetime, actor: str, why: str = ""
) -> Subscription:
    """Take a reason away, begin what is pending, or renew what has expired. It is active again once no reason is left."""
    now = now.replace(microsecond=0)
    await store.act(connection, actor, why)
    before = await store.lock(connection, subscription_id)
    terms = await store.terms_of(connection, before.plan_id, now)
    if before.status == "expired":
        return await store.save(connection, steps.renew(before, now, terms), since=now)
    if before.status == "pending":
        return await store.save(connection, steps.activate(before, now, terms), since=now)
    if not await connection.fetchval(SQL["clear"], subscription_id, reason):
        reasons = f" for {', '.join(before.suspended_reasons)}" if before.suspended_reasons else ""
        raise StepRefused(
            f"subscription {subscription_id} is {before.status}{reasons}, not suspended for {reason}"
            + (
                ": quota reasons clear by themselves, with a higher quota or the next quota period"
                if "quota" in reasons
                else ""
            )
        )
    return await store.lock(connection, subscription_id)
