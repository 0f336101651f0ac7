"""The scheduled jobs of notices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from services.billing.notices import deliveries
from services.billing.notices.settings import NoticeSettings
from services.billing.notices.watching import Watch
from shared.clock import Clock
from shared.jobs import Every, Job
from shared.outbox import Outbox
from shared.postgres import Pool, transaction

DAY = timedelta(days=1)


def make_watch(pool: Pool, clock: Clock, settings: NoticeSettings) -> Watch:
    """Return who looks for what users want to be alerted of."""
    unrated_after = timedelta(minutes=settings.billing_unrated_minutes)
    return Watch(pool, clock, Outbox("billing_outbox"), settings.billing_expiring_days, unrated_after)


def watch_job(watch: Watch, *, every: timedelta) -> Job:
    """Look every so often for what users want to be alerted of."""

    async def look(_scheduled_for: datetime) -> Mapping[str, Any]:
        return await watch()

    return Job(
        "raise alerts",
        min(every, timedelta(minutes=1)),
        Every(every),
        look,
        description="Tells users of spending and quotas they wanted to be told of, of endings, and of usage without a price.",
    )


def forget_deliveries_job(pool: Pool, clock: Clock, *, keep: timedelta) -> Job:
    """Delete the delivery log of what is older than `keep`, once a day."""

    async def forget(_scheduled_for: datetime) -> Mapping[str, Any]:
        forgotten = 0
        while True:
            async with transaction(pool) as connection:
                count = await deliveries.forget(connection, clock.now() - keep)
            forgotten += count
            if count < deliveries.FORGET_AT_ONCE:
                return {"forgotten": forgotten}

    return Job(
        "forget webhook deliveries",
        timedelta(minutes=10),
        Every(DAY, offset=timedelta(hours=3)),
        forget,
        description="Deletes the log of webhook deliveries that is older than it is kept.",
    )
