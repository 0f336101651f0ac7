"""The proof of the books by the clock, and its verdict as a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from services.billing import metrics
from services.billing.beginning import first_rated
from services.billing.reconciliation.reconcile import reconcile
from services.billing.reconciliation.report import RECONCILE, as_details
from shared.jobs import DETAILS, Every, Job, last_result
from shared.postgres import Pool


def reconciliation_job(pool: Pool, *, every: timedelta) -> Job:
    """Prove the books every so often. The verdict and its figures are kept with the run; `LastReconciliation` makes it a metric."""

    async def prove(_scheduled_for: datetime) -> Mapping[str, Any]:
        async with pool.acquire() as connection:
            checks = await reconcile(connection)
        broken = [check for check in checks if not check.holds]
        return {
            "checks": len(checks),
            "differing": [check.name for check in broken if not check.eventual],
            "under_way": [check.name for check in broken if check.eventual],
            DETAILS: as_details(checks),
        }

    return Job(
        RECONCILE,
        min(every, timedelta(minutes=1)),
        Every(every),
        prove,
        description="Proves that nothing was lost or counted twice, from broker offset to invoice.",
        since=first_rated,
    )


@dataclass(frozen=True, slots=True)
class LastReconciliation:
    """Makes the last verdict a metric of every worker, whoever ran it, and also after a restart."""

    pool: Pool

    async def __call__(self) -> None:
        """Report the last run that ended; nothing before there was one."""
        async with self.pool.acquire() as connection:
            last = await last_result(connection, RECONCILE)
        if last is not None:
            finished_at, result = last
            metrics.report_reconciliation(finished_at, result["differing"], result.get("under_way", ()))
