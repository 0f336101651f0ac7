"""The IO of subscriptions with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.billing.plans.store import read_plans
from services.billing.plans.terms import PlanTerms, Versions
from services.billing.subscriptions.life import NoSuchSubscription, StepRefused, Subscription
from shared.postgres import Connection
from shared.sql import Queries

SQL: Final = Queries.load("services.billing.subscriptions")
REFUSED: Final = ("TS010", "TS011")
"""What the database's own rules of the life of subscriptions answer with."""


async def act(connection: Connection, actor: str, why: str = "") -> None:
    """Let the audit trail name who acts, and why."""
    await connection.execute(SQL["act"], actor, why)


async def lock(connection: Connection, subscription_id: UUID) -> Subscription:
    """Return a subscription, kept from others until the transaction ends. Raises `StepRefused` for an unknown one."""
    row = await connection.fetchrow(SQL["locked"], subscription_id)
    if row is None:
        raise NoSuchSubscription(f"there is no subscription {subscription_id}")
    facts = dict(row)
    facts["suspended_reasons"] = tuple(facts["suspended_reasons"])
    return Subscription(**facts)


async def save(connection: Connection, subscription: Subscription, *, since: datetime) -> Subscription:
    """Store a subscription as a step left it, in force since a time; return it as the rules of the database made it.

    Raises `StepRefused` where they refuse the step.
    """
    s = subscription
    try:
        async with connection.transaction():
            await connection.execute(
                SQL["save"], s.id, s.status, s.status_before_suspension, s.plan_id, s.amount, s.currency, s.interval, s.interval_count,
                s.quota_requests, s.quota_tokens, s.billing_anchor, s.current_period_start, s.current_period_end,
                s.cancel_at_period_end, s.expires_at, since,
            )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise StepRefused(
            f"subscription {s.id} cannot become {s.status}: its user has another live subscription to model {s.model_id}"
        ) from None
    except asyncpg.PostgresError as error:
        raise refusal(error) from error
    return await lock(connection, s.id)


def refusal(error: Exception) -> Exception:
    """Return a refusal of the database's own rules as one for a person; anything else as it is."""
    if getattr(error, "sqlstate", None) in REFUSED:
        hint = getattr(error, "hint", None)
        return StepRefused(f"{error}{f': {hint}' if hint else ''}")
    return error


async def terms_of(connection: Connection, plan_id: str | None, at: datetime) -> PlanTerms | None:
    """Return what a plan asks for at a time; None for no plan."""
    return None if plan_id is None else (await _versions(connection, plan_id)).at(at)


async def open_terms(connection: Connection, plan_id: str, at: datetime) -> PlanTerms:
    """Return what a plan asks for that somebody wants to subscribe to. Raises `StepRefused` for one that is unknown or closed."""
    is_active = await connection.fetchval(SQL["open_plan"], plan_id)
    if is_active is None:
        plans = ", ".join(sorted(await read_plans(connection)))
        raise StepRefused(f"there is no plan {plan_id}: there are {plans}")
    if not is_active:
        raise StepRefused(f"plan {plan_id} is closed: nobody can begin it any more")
    return (await _versions(connection, plan_id)).at(at)


async def _versions(connection: Connection, plan_id: str) -> Versions:
    return (await read_plans(connection))[plan_id]


def document(subscription: Subscription) -> dict[str, Any]:
    """Return a subscription as JSON-ready values; what is not given is left out."""
    found = {}
    for name, value in asdict(subscription).items():
        if value is None or value == ():
            continue
        found[name] = (
            value.isoformat()
            if isinstance(value, datetime)
            else value
            if isinstance(value, bool | int | tuple)
            else str(value)
        )
    return found
