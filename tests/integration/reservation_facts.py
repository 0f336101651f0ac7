"""A gateway that reserves, an aggregator and billing that settle, on one database and by one clock; and what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from services.aggregator.jobs import ReservationExpiry
from services.api.reservations import Answer, Ask, Reservation, store
from services.billing.reconciliation import reconcile
from shared.clock import FixedClock
from shared.contracts import UsageDelta, UsageRecorded
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import STORE_BATCH, Aggregator
from tests.integration.billing_facts import Desk
from tests.integration.roles import API, with_role
from tests.unit.aggregator.facts import NOON, delta, recorded

KEEP = timedelta(hours=48)


class Held(NamedTuple):
    """What open reservations hold of a subscription's quotas."""

    open: int = 0
    requests: int = 0
    tokens: int = 0


@dataclass
class House:
    """All who have to do with reservations, and their clock."""

    pool: Pool
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOON))

    def __post_init__(self) -> None:
        self.aggregator = Aggregator(self.pool, clock=self.clock)
        self.desk = Desk(self.pool, clock=self.clock)
        self.api = with_role(self.pool, API)
        self.expiry = ReservationExpiry(self.aggregator.pool, self.clock, KEEP)

    async def reserve(self, *asks: Ask) -> list[Answer]:
        """Reserve in one transaction."""
        async with transaction(self.api) as connection:
            return await store.reserve(connection, asks, self.clock.now())

    async def reserved(self, subscription: UUID, **fields: Any) -> UUID:
        """Reserve what is there for certain; return the id."""
        [answer] = await self.reserve(Ask(subscription, **fields))
        assert answer.outcome == "reserved", answer
        assert answer.reservation is not None
        return answer.reservation.id

    async def cancel(self, id_: UUID) -> Reservation | None:
        """Cancel a reservation."""
        async with transaction(self.api) as connection:
            return await store.cancel(connection, id_, self.clock.now())

    async def state(self, id_: UUID) -> str:
        """Return the state of a reservation."""
        return await self.pool.fetchval("SELECT state FROM reservations WHERE id = $1", id_)  # type: ignore[no-any-return]

    async def use(
        self, subscription: UUID, *reservations: UUID, tokens: int = 0, bill: bool = True, debit: bool = True
    ) -> UsageRecorded:
        """Let one event of a subscription name reservations, and the aggregator, billing and its settlement hear of it."""
        message = recorded(usage_naming(subscription, reservations, tokens))
        await self.aggregator.apply(message)
        if bill:
            await self.bill(message, debit=debit)
        return message

    async def announced(self, message: UsageRecorded) -> None:
        """Store the batch of a message, as ingest does before it announces it."""
        await self.pool.execute(STORE_BATCH, message.batch_id, max(1, message.event_count), message.parts)

    async def bill(self, message: UsageRecorded, *, debit: bool = True) -> None:
        """Let billing hear of a message, and debit what it rated."""
        await self.announced(message)
        await self.desk.deliver(message)
        if debit:
            await self.desk.settling.settle_all()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.at += timedelta(seconds=seconds)

    async def held(self, subscription: UUID) -> Held:
        """Return what is held of a subscription's quotas."""
        row = await self.pool.fetchrow(
            "SELECT open, requests, tokens FROM reservation_holds WHERE subscription_id = $1", subscription
        )
        return Held(*row) if row else Held()

    async def differing(self) -> list[str]:
        """Return the names of the proofs about reservations that do not hold."""
        async with self.pool.acquire() as connection:
            checks = await reconcile(connection)
        return [check.name for check in checks if "holds" in check.name and not check.holds]

    async def held_credits(self, subscription: UUID) -> Any:
        """Return what is held of the credits of a subscription's user."""
        return await self.pool.fetchval(
            "SELECT coalesce(sum(c.credits), 0) FROM credit_holds c JOIN subscriptions s USING (user_id) WHERE s.id = $1",
            subscription,
        )


def usage_naming(subscription: UUID, reservations: Sequence[UUID], tokens: int = 0) -> UsageDelta:
    """Return the usage of one event, of `tokens` request tokens, that names reservations."""
    return delta(subscription, tokens=tokens, reservations=list(reservations))
