"""What the aggregator does by the clock. Every worker runs every job; the database lets each piece of work be done once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from services.aggregator import metrics, store
from services.aggregator.health import judge_providers
from shared.clock import Clock
from shared.period import utc
from shared.postgres import Pool, transaction

EXPIRE_SUBSCRIPTIONS = 100
"""Most subscriptions whose due reservations one transaction expires: nobody waits long to reserve."""

FORGET_RESERVATIONS = 5_000
"""Most finished reservations that one transaction forgets."""

PRUNE_BATCHES = 10_000
"""Most batches whose messages one transaction forgets: slices wait for it."""

REFRESH_SECONDS = 1800.0
"""Longest time that a refresh of llm_usage_summary may take."""
REFRESH_REST = 20.0
"""Times as long as it took, no refresh follows: at most a twentieth of a connection's time goes into it."""


@dataclass(frozen=True, slots=True)
class ProviderVerdicts:
    """Keeps provider_health true to the last minutes of traffic."""

    pool: Pool
    clock: Clock
    window: timedelta
    keep: timedelta

    async def __call__(self) -> None:
        """Judge all providers anew; forget what is too old to be looked at."""
        async with transaction(self.pool) as connection:
            if not await store.become_only_one(connection, "provider_health"):
                return
            seen = await store.recent_observations(connection, int(self.window / timedelta(minutes=1)))
            verdicts = judge_providers(seen, self.window)
            await store.store_provider_health(connection, verdicts)
        for verdict in verdicts:
            if verdict.success_rate is not None:
                metrics.PROVIDER_SUCCESS.labels(verdict.provider).set(float(verdict.success_rate))

    async def forget(self) -> None:
        """Delete observations that nothing looks at any more."""
        await store.forget_observations(self.pool, self.clock.now() - self.keep)


@dataclass(slots=True)
class UsageSummaryRefresh:
    """Keeps the materialized view llm_usage_summary up to date. It reads the days that changed: the more that is, the more seldom."""

    pool: Pool
    _rest_until: float = 0.0

    async def __call__(self) -> None:
        """Refresh, unless another worker is at it or the last refresh took so long that the database still rests from it."""
        if monotonic() < self._rest_until:
            return
        async with transaction(self.pool) as connection:
            if not await store.become_only_one(connection, "usage_summary"):
                return
            started = monotonic()
            await store.refresh_usage_summary(connection, timeout=REFRESH_SECONDS)
        self._rest_until = monotonic() + REFRESH_REST * (monotonic() - started)


@dataclass(frozen=True, slots=True)
class InboxPruning:
    """Keeps the inbox from growing for ever: forgets messages of batches that were recorded longer than `keep` ago."""

    pool: Pool
    clock: Clock
    keep: timedelta

    async def __call__(self) -> int:
        """Forget what can be forgotten; return how many messages that were. Stops at a batch that was not applied whole."""
        forgotten, more = 0, True
        while more:
            async with transaction(self.pool) as connection:
                if not await store.become_only_one(connection, "inbox_pruning"):
                    break
                count, more = await store.prune_inbox(connection, self.clock.now() - self.keep, PRUNE_BATCHES)
            forgotten += count
        metrics.INBOX_PRUNED.inc(forgotten)
        return forgotten


@dataclass(frozen=True, slots=True)
class ReservationExpiry:
    """Gives back what reservations hold whose usage has not come in time; forgets finished ones that were made longer than `keep` ago.

    Who reserves does it for the own subscription, too: this is for those that nobody reserves for.
    """

    pool: Pool
    clock: Clock
    keep: timedelta

    async def __call__(self) -> int:
        """Expire all that are due; return how many that were."""
        expired = 0
        while True:
            async with transaction(self.pool) as connection:
                subscriptions, count = await store.expire_reservations(
                    connection, self.clock.now(), EXPIRE_SUBSCRIPTIONS
                )
            expired += count
            if subscriptions < EXPIRE_SUBSCRIPTIONS:
                break
        metrics.count_reservations(expired=expired)
        metrics.RESERVATIONS_OPEN.set(await store.open_reservations(self.pool))
        return expired

    async def forget(self) -> int:
        """Forget what is old; return how many reservations that were."""
        forgotten, count = 0, FORGET_RESERVATIONS
        while count == FORGET_RESERVATIONS:
            async with transaction(self.pool) as connection:
                count = await store.forget_reservations(connection, self.clock.now() - self.keep, FORGET_RESERVATIONS)
            forgotten += count
        return forgotten


@dataclass(frozen=True, slots=True)
class KeyDaysForgetting:
    """Forgets what API keys used on days longer than `keep` ago: no limit is judged by them."""

    pool: Pool
    clock: Clock
    keep: timedelta

    async def __call__(self) -> None:
        async with transaction(self.pool) as connection:
            await store.forget_key_days(connection, utc(self.clock.now() - self.keep).date())
