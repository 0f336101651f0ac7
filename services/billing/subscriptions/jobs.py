"""The scheduled work of subscriptions. Each look does what is due at that moment, so that missed ones need no making up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from services.billing.subscriptions.upkeep import make_due
from shared.clock import Clock
from shared.jobs import Every, Job, Unfinished
from shared.postgres import Pool

MINUTE = timedelta(minutes=1)


def subscriptions_job(pool: Pool, clock: Clock) -> Job:
    """End trials, apply scheduled changes, cancel at the end of periods, expire, begin the next billing intervals."""

    async def make(_scheduled_for: datetime) -> Mapping[str, Any]:
        done = await make_due(pool, clock.now())
        result = {**done.made, "refused": done.refused, "failed": len(done.failed)}
        if done.failed:
            raise Unfinished(result)
        return result

    return Job(
        "change subscriptions",
        MINUTE,
        Every(MINUTE),
        make,
        description="ends trials, applies scheduled changes, cancels, expires, and begins billing intervals",
    )
