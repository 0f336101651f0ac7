"""Makes a change of a subscription that is due: now by somebody's word, or by the job that was told ahead."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from services.billing.subscriptions import steps, store
from services.billing.subscriptions.life import Subscription
from services.billing.subscriptions.store import SQL
from shared.postgres import Connection

Kind = Literal["plan", "cancel", "pause", "resume"]


async def apply(
    connection: Connection, subscription: Subscription, kind: Kind, *, at: datetime, to_plan: str | None
) -> Subscription:
    """Change a subscription as of a time that has come."""
    changed = await store.save(
        connection, await stepped(connection, subscription, kind, at=at, to_plan=to_plan), since=at
    )
    if changed.ended:
        await connection.execute(SQL["refuse_all"], changed.id, at, f"the subscription is {changed.status}")
    return changed


async def stepped(
    connection: Connection, subscription: Subscription, kind: Kind, *, at: datetime, to_plan: str | None
) -> Subscription:
    """Return a subscription as a change makes it; stores nothing."""
    terms = await store.terms_of(connection, subscription.plan_id, at)
    match kind:
        case "plan":
            wanted = await store.open_terms(connection, to_plan or "", at)
            return steps.change_plan(subscription, terms, wanted, at)
        case "cancel":
            return steps.cancel(subscription)
        case "pause":
            return steps.pause(subscription)
        case "resume":
            return steps.resume(subscription, at, terms)
