"""Charges flat fees of prepaid subscriptions to credits: as they fall due, once each, and what the balance does not cover is owed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import structlog

from services.billing.credits import credits as decide
from services.billing.credits import store
from services.billing.credits.settlement import tell
from services.billing.plans import store as plans
from services.billing.plans.charge import Charge
from services.billing.plans.fees import fees_due
from services.billing.plans.terms import Versions
from services.billing.plans.timeline import Subscription, timeline
from shared.ids import uuid7
from shared.outbox import Outbox
from shared.period import Period
from shared.postgres import Connection, Pool, transaction
from shared.sql import Queries

log = structlog.get_logger("billing.credits")

SQL: Final = Queries.load("services.billing.credits", "fees.sql")
LOOK_BACK: Final = timedelta(days=1)
"""How far fees are looked for again: a change of a subscription may commit later than it says. Keys make it harmless."""


class PrepaidFee(NamedTuple):
    """A charge of a prepaid subscription, in its currency, due at a time."""

    user_id: UUID
    currency: str
    charge: Charge
    due_at: datetime


@dataclass(slots=True)
class Charged:
    """What came of it: how many fees were charged, and how many wait for a rate of credits, or for another try."""

    fees: int = 0
    waiting: int = 0
    failed: int = 0


async def charge_fees(pool: Pool, outbox: Outbox, *, now: datetime) -> Charged:
    """Charge what has fallen due by `now` and was not charged yet. What cannot be charged is tried again the next time."""
    done = Charged()
    async with transaction(pool) as connection:
        mark = await connection.fetchrow(SQL["watermark"])
        start = max(mark["since"], mark["charged_until"] - LOOK_BACK)
        if start >= now:
            return done
        for user_id, fees in (await _uncharged(connection, Period(start, now))).items():
            try:
                async with connection.transaction():
                    await _charge_user(connection, outbox, user_id, fees, done, now=now)
            except asyncpg.PostgresError as error:
                log.warning("prepaid_fee_failed", user=str(user_id), error=repr(error), then="it is tried again")
                done.failed += len(fees)
        if not done.waiting and not done.failed:
            await connection.execute(SQL["move_watermark"], now)
    return done


async def _uncharged(connection: Connection, period: Period) -> dict[UUID, list[PrepaidFee]]:
    versions = await plans.read_plans(connection)
    subscriptions = await plans.read_subscriptions(connection, period, None, (), mode="prepaid")
    due = [fee for subscription in subscriptions for fee in prepaid_fees(subscription, versions, period)]
    rows = await connection.fetch(SQL["charged"], [fee.charge.key for fee in due])
    charged = {row["charge_key"] for row in rows}
    by_user: dict[UUID, list[PrepaidFee]] = defaultdict(list)
    for fee in sorted(due, key=lambda fee: (fee.user_id, fee.due_at, fee.charge.key)):
        if fee.charge.key not in charged:
            by_user[fee.user_id].append(fee)
    return by_user


def prepaid_fees(subscription: Subscription, versions: Mapping[str, Versions], period: Period) -> Iterator[PrepaidFee]:
    """Yield the fees of a subscription's prepaid times that fall due in a period (pure). Coupons take off invoices only."""
    intervals = list(timeline(subscription, versions, period.start, period.end, mode="prepaid"))
    for currency, charge, _, due_at in fees_due(subscription.id, intervals, period):
        if charge.amount:
            yield PrepaidFee(subscription.user_id, currency, charge, due_at)


async def _charge_user(
    connection: Connection, outbox: Outbox, user_id: UUID, fees: Sequence[PrepaidFee], done: Charged, *, now: datetime
) -> None:
    await store.act_as_billing(connection)
    accounts = await store.lock_accounts(connection, [user_id])
    account = accounts[user_id]
    for fee in fees:
        rate = await connection.fetchval(SQL["rate"], fee.currency, fee.due_at)
        if rate is None:
            log.error("credit_rate_missing", currencies=[fee.currency], users=1)
            await store.raise_unconvertible(connection, [decide.Due(user_id, fee.currency, None)])
            done.waiting += 1
            continue
        settlement = await _post(connection, fee, rate, account)
        await tell(connection, outbox, accounts, [settlement], at=now)
        account = settlement.account
        done.fees += 1


async def _post(connection: Connection, fee: PrepaidFee, rate: Decimal, account: decide.Account) -> decide.Settlement:
    charge = fee.charge
    claim = decide.Claim(
        uuid7(), fee.user_id, fee.currency, charge.amount, 0, charge.period_start, charge.period_end, rate
    )
    facts: dict[str, Any] = {"charge": charge.key, "subscription_id": str(charge.subscription_id)}
    row = await connection.fetchrow(
        SQL["post"], fee.user_id, claim.credits, charge.key, charge.description, json.dumps(facts)
    )
    await connection.execute(
        SQL["record"], charge.key, fee.user_id, charge.subscription_id, charge.kind, charge.description, charge.amount, fee.currency, rate,
        claim.credits, row["debited"], row["owed_added"], row["transaction_id"], fee.due_at, charge.period_start, charge.period_end,
        json.dumps(charge.metadata),
    )  # fmt: skip
    after = replace(account, balance=row["new_balance"], owed=row["total_owed"])
    return decide.Settlement(claim, claim.credits, row["debited"], row["owed_added"], row["transaction_id"], after)
