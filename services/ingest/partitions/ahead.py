"""Makes the coming months, so that no event waits for its partition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.ingest.partitions.store import SQL
from shared.clock import Clock
from shared.period import month_start, next_month
from shared.postgres import Connection, Pool


async def ensure(connection: Connection | Pool, now: datetime, ahead: int) -> list[str]:
    """Make the current month and the `ahead` after it, where they are missing; return their names."""
    month, names = month_start(now), []
    for _ in range(ahead + 1):
        names.append(await connection.fetchval(SQL["ensure"], month))
        month = next_month(month)
    return [name for name in names if name is not None]


@dataclass(frozen=True, slots=True)
class PartitionsAhead:
    """Makes them by a timer."""

    pool: Pool
    clock: Clock
    months: int

    async def __call__(self) -> None:
        await ensure(self.pool, self.clock.now(), self.months)
