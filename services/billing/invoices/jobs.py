"""Invoicing's scheduled jobs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from services.billing.beginning import first_rated
from services.billing.invoices.closing import close_period, draft_period
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


def drafting_job(pool: Pool, clock: Clock, *, grace: timedelta, terms: Terms) -> Job:
    """Begin the invoices of each month when it ends: until its grace is over they are drafts, which late events go into.

    A month whose grace is over already is left to the closing.
    """

    async def draft(scheduled_for: datetime) -> Mapping[str, Any]:
        month = Period.month_of(scheduled_for - timedelta(microseconds=1))
        if clock.now() >= month.end + grace:
            return {"period": f"{month.start:%Y-%m}", "drafts": 0}
        drafts = await draft_period(pool, month, terms=terms)
        return {"period": f"{month.start:%Y-%m}", "drafts": len(drafts)}

    return Job(
        "draft invoices",
        timedelta(minutes=10),
        Monthly(after=timedelta(0)),
        draft,
        description="Begins the invoices of the month that ended; they are drafts until their grace for late events is over.",
        since=first_rated,
    )
