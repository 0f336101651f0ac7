"""Rolls quota periods that are over: continuously by the aggregator's timer, and once when an operator asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.aggregator import store
from services.aggregator.counters import Counters
from shared.clock import Clock
from shared.postgres import Connection, Pool, transaction

ROLL_SUBSCRIPTIONS = 500
"""Most quota periods that one transaction rolls: nobody waits long for one of them."""


@dataclass(frozen=True, slots=True)
class QuotaResets:
    """Rolls quota periods that are over, whether or not there is usage, so that a suspended subscription comes back in time."""

    pool: Pool
    clock: Clock
    counters: Counters
    wake_publisher: Callable[[], None]

    async def __call__(self) -> int:
        """Roll all that are due; return how many that were."""
        rolled = 0
        while True:
            async with transaction(self.pool) as connection:
                now = self.clock.now()
                await store.act_as_aggregator(connection)
                due = await store.lock_due_subscriptions(connection, now, ROLL_SUBSCRIPTIONS)
                settled = await self.counters.settle(connection, due, {}, now)
            self.counters.committed(settled)
            if settled.status_changed:
                self.wake_publisher()
            rolled += settled.rolled
            if len(due) < ROLL_SUBSCRIPTIONS:
                return rolled


async def count_overdue(connection: Connection, now: datetime, after: timedelta) -> int:
    """Return how many quota periods have been over for longer than `after`, and were not rolled."""
    return int(await connection.fetchval(store.SQL["count_due_subscriptions"], now - after))
