"""The scheduled job that counts what was used with own keys at providers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from shared.clock import Clock
from shared.jobs import Every, Job
from shared.period import Period
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries

_SQL = Queries.load("services.billing.provider_keys")


def provider_keys_job(pool: Pool, clock: Clock, *, every: timedelta) -> Job:
    """Count every so often, month after month up to this one."""

    async def count(_scheduled_for: datetime) -> Mapping[str, Any]:
        async with transaction(pool) as connection:
            return {"changed": await count_usage(connection, clock.now())}

    return Job(
        "count provider keys",
        min(every, timedelta(minutes=5)),
        Every(every),
        count,
        description="Counts requests and tokens that were used with own keys at providers, for the key that is the default.",
    )


async def count_usage(connection: Connection, now: datetime) -> int:
    """Count the months that keys are in, up to that of `now`; return how many keys changed."""
    changed, current = 0, Period.month_of(now)
    while (month := await connection.fetchval(_SQL["oldest_month"], current.start)) is not None:
        past = Period.month_of(month)
        changed += await _count(connection, past)
        await connection.execute(_SQL["next_month"], past.start, past.end)
    return changed + await _count(connection, current)


async def _count(connection: Connection, month: Period) -> int:
    done: str = await connection.execute(_SQL["count_month"], month.start, month.end)
    return int(done.rsplit(maxsplit=1)[-1])
