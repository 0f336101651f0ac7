"""Makes what is due of subscriptions' life: trials end, scheduled changes, cancellations at a period's end, expiry, the next interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from services.billing.subscriptions import steps, store
from services.billing.subscriptions.changes import apply
from services.billing.subscriptions.life import StepRefused, Subscription
from services.billing.subscriptions.store import SQL
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.subscriptions")

STEPS_AT_ONCE: Final = 200
"""Steps that are looked up at a time; each is made in a transaction of its own."""
ACTOR: Final = "billing"


@dataclass(slots=True)
class Upkeep:
    """What one run did, by kind of step; `refused` are changes that could not be made, `failed` subscriptions to be looked at again."""

    made: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    failed: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Step:
    subscription_id: UUID
    kind: str
    due_at: datetime
    change_id: UUID | None
    to_plan_id: str | None


async def make_due(pool: Pool, now: datetime) -> Upkeep:
    """Make every step that is due by `now`, in the order of their times, also those that an earlier one brought about.

    Each is in force since it was due, not since it was made. Two workers at once make each step once: it is judged anew under the lock.
    """
    done = Upkeep()
    await pool.execute(SQL["mirror_plans"])
    while True:
        rows = await pool.fetch(SQL["due"], now, STEPS_AT_ONCE, done.failed)
        found = [_Step(**row) for row in rows]
        first = {step.subscription_id: step for step in reversed(found)}  # a step may undo the next ones
        if not first:
            return done
        for step in sorted(first.values(), key=lambda s: s.due_at):
            await _make(pool, step, done)


async def _make(pool: Pool, step: _Step, done: Upkeep) -> None:
    try:
        async with transaction(pool) as connection:
            kind = await _step(connection, step)
    except (asyncpg.PostgresError, StepRefused) as error:
        log.warning(
            "subscription_step_failed", subscription=str(step.subscription_id), step=step.kind, error=str(error)
        )
        done.failed.append(step.subscription_id)
        return
    if kind == "refused":
        done.refused += 1
    elif kind:
        done.made[kind] = done.made.get(kind, 0) + 1


async def _step(connection: Connection, step: _Step) -> str | None:
    """Make a step; return what was made: its kind, `refused`, or nothing because another worker was quicker."""
    await store.act(connection, ACTOR, "it was due")
    subscription = await store.lock(connection, step.subscription_id)
    at = step.due_at.replace(microsecond=0)
    if step.change_id is not None:
        return await _change(connection, subscription, step, at)
    if not _still_due(subscription, step):
        return None
    if step.kind == "cancel":
        await apply(connection, subscription, "cancel", at=at, to_plan=None)
        return step.kind
    terms = await store.terms_of(connection, subscription.plan_id, at)
    match step.kind:
        case "trial_end":
            changed = steps.activate(subscription, at, terms)
        case "expire":
            changed = steps.expire(subscription)
        case _:
            began = subscription.current_period_start or at
            before = await store.terms_of(connection, subscription.plan_id, began)
            changed = steps.roll(subscription, step.due_at, terms, before)
    await store.save(connection, changed, since=at)
    return step.kind


async def _change(connection: Connection, subscription: Subscription, step: _Step, at: datetime) -> str | None:
    if not await connection.fetchval(SQL["change_is_open"], step.change_id):
        return None
    try:
        await apply(connection, subscription, step.kind, at=at, to_plan=step.to_plan_id)  # type: ignore[arg-type]  # checked by the table
    except StepRefused as refused:
        await connection.execute(SQL["refused"], step.change_id, at, str(refused))
        return "refused"
    await connection.execute(SQL["applied"], step.change_id, at)
    return step.kind


def _still_due(subscription: Subscription, step: _Step) -> bool:
    match step.kind:
        case "trial_end":
            return subscription.in_trial and subscription.trial_end == step.due_at
        case "expire":
            return not subscription.ended and subscription.expires_at == step.due_at
        case "cancel":
            return (
                subscription.cancel_at_period_end
                and not subscription.ended
                and subscription.current_period_end == step.due_at
            )
        case _:
            return not subscription.ended and subscription.current_period_end == step.due_at
