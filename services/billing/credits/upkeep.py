"""What befalls credits by the calendar: grants expire, allowances are renewed. Each is idempotent by what the ledger says already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg
import structlog

from shared.postgres import Pool, transaction
from shared.sql import Queries

log = structlog.get_logger("billing.credits")

SQL = Queries.load("services.billing.credits", "upkeep.sql")
ACCOUNTS_AT_ONCE = 100
"""Accounts that are changed in one transaction."""


@dataclass(slots=True)
class Upkeep:
    """What came of it: how many accounts were looked after, how many postings that made, and whose could not be made."""

    accounts: int = 0
    postings: int = 0
    failed: list[UUID] = field(default_factory=list)


async def expire_credits(pool: Pool, at: datetime) -> Upkeep:
    """Take out of the balances what has expired by `at`, one ledger entry for each grant."""
    return await _look_after(pool, "expiring", "expire", at)


async def renew_allowances(pool: Pool, at: datetime) -> Upkeep:
    """Grant the allowance of every billing cycle that has begun by `at`, once for each account and cycle."""
    return await _look_after(pool, "renewable", "renew", at)


async def _look_after(pool: Pool, find: str, change: str, at: datetime) -> Upkeep:
    users = [row["user_id"] for row in await pool.fetch(SQL[find], at)]
    done = Upkeep(len(users))
    for first in range(0, len(users), ACCOUNTS_AT_ONCE):
        await _change(pool, change, users[first : first + ACCOUNTS_AT_ONCE], at, done)
    return done


async def _change(pool: Pool, change: str, users: Sequence[UUID], at: datetime, done: Upkeep) -> None:
    """Change some accounts together; if that fails, each by itself, so that one cannot hold up the others."""
    try:
        async with transaction(pool) as connection:
            postings = await connection.fetchval(SQL[change], users, at)
    except asyncpg.PostgresError as error:
        if len(users) > 1:
            for user in users:
                await _change(pool, change, [user], at, done)
            return
        log.warning(
            "credit_upkeep_failed", work=change, user=str(users[0]), error=repr(error), then="it is tried again"
        )
        done.failed.append(users[0])
        return
    done.postings += postings
