"""Invoicing's scheduled jobs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from services.billing.beginning import first_rated
from services.billing.invoices.closing import close_period
from services.billing.invoices.terms import Terms
from shared.clock import Clock
from shared.jobs import Job, Monthly, Unfinished
from shared.period import Period
from shared.postgres import Pool


def closing_job(pool: Pool, clock: Clock, *, grace: timedelta, terms: Terms) -> Job:
    """Close each month when its grace is over. Months that were missed are closed in order.

    Months from before the first usage was rated are not closed by themselves: whoever imports them closes them.
    """

    async def close(scheduled_for: datetime) -> Mapping[str, Any]:
        month = Period.month_of(scheduled_for - grace - timedelta(microseconds=1))
        closing = await close_period(pool, month, clock=clock, grace=grace, terms=terms)
        result = {
            "period": f"{month.start:%Y-%m}",
            "invoices": len(closing.invoices),
            "failures": len(closing.failures),
        }
        if closing.failures:
            raise Unfinished(result)
        return result

    return Job(
        "close period",
        timedelta(minutes=10),
        Monthly(after=grace),
        close,
        description="Invoices the month that ended, once its grace for late events is over.",
        since=first_rated,
    )
