"""Settles prepaid usage: one ledger entry for each user and window, tied to the usage it pays, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import asyncpg
import structlog

from services.billing import metrics
from services.billing.amounts import amount_text
from services.billing.credits import store, topups
from services.billing.credits.credits import Account, Due, Notice, Pending, Settlement, notices
from services.billing.events import CREDITS_EXHAUSTED, CREDITS_LOW, EventType, billing_event
from shared.clock import Clock
from shared.outbox import Message, Outbox
from shared.postgres import Connection, Pool, transaction

log = structlog.get_logger("billing.settlement")

ACCOUNTS_AT_ONCE = 100
"""Accounts that are settled in one transaction."""


@dataclass(slots=True)
class Settling:
    """Settles what is pending. What users are told of it goes to the outbox."""

    pool: Pool
    clock: Clock
    outbox: Outbox
    pending: Pending
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def settle_all(self) -> int:
        """Settle every user's window; return how many settlements that made."""
        self.pending.forget()
        return await self._settle(None)

    async def settle_now(self, users: Sequence[UUID]) -> int:
        """Settle some users at once, whose credits are nearly gone."""
        self.pending.forget(users)
        return await self._settle(users)

    async def _settle(self, users: Sequence[UUID] | None) -> int:
        async with self._one_at_a_time:
            async with self.pool.acquire() as connection:
                self.pending.rates = await store.rates(connection, self.clock.now())
                found = await store.unsettled(connection, users)
                due = await self._convertible(connection, found)
            if users is None:
                metrics.UNCONVERTIBLE.set(len(found) - len(due))
            chunks = [due[i : i + ACCOUNTS_AT_ONCE] for i in range(0, len(due), ACCOUNTS_AT_ONCE)]
            return sum([await self._settle_chunk(chunk) for chunk in chunks])

    async def _convertible(self, connection: Connection, due: Sequence[Due]) -> list[Due]:
        """Return what can be settled. Usage in a currency without a rate waits, and is told; it is never converted by another's."""
        waiting = [one for one in due if one.credits_per_unit is None]
        if waiting:
            log.error("credit_rate_missing", currencies=sorted({one.currency for one in waiting}), users=len(waiting))
            await store.raise_unconvertible(connection, waiting)
        return [one for one in due if one.credits_per_unit is not None]

    async def _settle_chunk(self, due: Sequence[Due]) -> int:
        """Settle some accounts together; if that fails, each by itself, so that one cannot hold up the others."""
        try:
            async with transaction(self.pool) as connection:
                settlements = await self._settle_due(connection, due)
        except asyncpg.PostgresError as error:
            if len(due) == 1:
                log.warning("settlement_failed", user=str(due[0].user_id), error=repr(error), then="it is tried again")
                metrics.SETTLEMENT_FAILURES.inc()
                return 0
            return sum([await self._settle_chunk([one]) for one in due])
        metrics.count_settlements(settlements)
        return len(settlements)

    async def _settle_due(self, connection: Connection, due: Sequence[Due]) -> list[Settlement]:
        await store.act_as_billing(connection)
        accounts = await store.lock_accounts(connection, [one.user_id for one in due])
        claims = await store.claim(connection, due)
        if not claims:
            return []  # another worker was quicker
        settlements = await store.settle(connection, claims, accounts)
        await store.release_reserved(connection, list(accounts))
        await tell(connection, self.outbox, accounts, settlements, at=self.clock.now())
        return settlements


async def tell(
    connection: Connection,
    outbox: Outbox,
    accounts: dict[UUID, Account],
    settlements: Sequence[Settlement],
    *,
    at: datetime,
) -> None:
    """Tell users whose balance went low or is used up, and ask for top-ups. `accounts` were locked before, and are as after from here on."""
    told: list[Notice] = []
    for settlement in settlements:
        told += notices(accounts[settlement.claim.user_id], settlement)
        accounts[settlement.claim.user_id] = settlement.account
    await store.raise_alerts(connection, told)
    await outbox.enqueue(connection, [_announce(notice, at) for notice in told])
    if low := [user for user, account in accounts.items() if account.wants_topup]:
        await topups.request(connection, outbox, at, low)


def _announce(notice: Notice, at: datetime) -> Message:
    settlement = notice.settlement
    data = {
        "balance": amount_text(settlement.account.balance),
        "owed": amount_text(settlement.account.owed),
        "settlement": str(settlement.claim.id),
        "transaction": str(settlement.transaction_id),
    }
    if notice.kind == "low_balance":
        data["threshold"] = amount_text(settlement.account.low_balance_threshold or Decimal(0))
    kind: EventType = CREDITS_LOW if notice.kind == "low_balance" else CREDITS_EXHAUSTED
    return billing_event(kind, settlement.claim.user_id, at, data)
