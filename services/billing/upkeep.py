"""Billing's background work that needs no schedule: what it does is idempotent, and often."""

from __future__ import annotations

from dataclasses import dataclass

from services.billing import metrics
from services.billing.credits.store import total_owed
from services.billing.rating.held import rate_held
from services.billing.rating.prices import Prices
from services.billing.rating.store import count_held
from shared.clock import Clock
from shared.postgres import Pool


@dataclass(frozen=True, slots=True)
class HeldUsage:
    """Rates usage that waited for a price; reports what still waits, and what is owed."""

    pool: Pool
    clock: Clock
    prices: Prices

    async def __call__(self) -> None:
        metrics.HELD_RATED.inc(await rate_held(self.pool, self.prices))
        async with self.pool.acquire() as connection:
            metrics.report_held(*await count_held(connection), self.clock.now())
            metrics.report_owed(*await total_owed(connection))
