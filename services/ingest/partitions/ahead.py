"""What comes round: the coming months are made, so that no event waits for its partition, and old identities give way to new ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.ingest.partitions.store import SQL
from shared.clock import Clock
from shared.period import month_start, next_month
from shared.postgres import Connection, Pool

log = structlog.get_logger("ingest.partitions")


async def ensure(connection: Connection | Pool, now: datetime, ahead: int) -> list[str]:
    """Make the current month and the `ahead` after it, where they are missing; return their names."""
    month, names = month_start(now), []
    for _ in range(ahead + 1):
        names.append(await connection.fetchval(SQL["ensure"], month))
        month = next_month(month)
    return [name for name in names if name is not None]


async def count_missing(connection: Connection, now: datetime, ahead: int) -> int:
    """Return how many of the current month and the `ahead` after it have no partition."""
    return int(await connection.fetchval(SQL["count_missing"], month_start(now), ahead))


@dataclass(frozen=True, slots=True)
class PartitionsAhead:
    """Makes them by a timer."""

    pool: Pool
    clock: Clock
    months: int

    async def __call__(self) -> None:
        await ensure(self.pool, self.clock.now(), self.months)


@dataclass(frozen=True, slots=True)
class IdentityGenerations:
    """Begins a generation of identities after `turn_after`, and drops those that have guarded for `guard_for`, by a timer."""

    pool: Pool
    clock: Clock
    turn_after: timedelta
    guard_for: timedelta

    async def __call__(self) -> None:
        row = await self.pool.fetchrow(SQL["keep_usage_ids"], self.clock.now(), self.turn_after, self.guard_for)
        if row["begun"] is not None or row["dropped"]:
            log.info("identity_generations_turned", begun=row["begun"], dropped=row["dropped"])
