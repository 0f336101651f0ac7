"""The IO of plans with Postgres. Each function runs in the caller's transaction; the SQL is in queries.sql."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from services.billing.plans.meters import UsageSum, read_meters
from services.billing.plans.terms import PlanTerms, Versions
from services.billing.plans.timeline import BillingMode, Redemption, State, Subscription
from services.billing.plans.windows import Billed, Window
from shared.money import exact
from shared.period import Period
from shared.postgres import Connection
from shared.sql import Queries

SQL = Queries.load("services.billing.plans")

ALWAYS: Final = datetime.min.replace(tzinfo=UTC)
"""When the first version of a plan began to apply."""


async def read_plans(connection: Connection) -> dict[str, Versions]:
    """Return every plan with its versions."""
    rows = await connection.fetch(SQL["versions"])
    return {plan: Versions([_terms(row) for row in found]) for plan, found in groupby(rows, key=itemgetter("plan_id"))}


def _terms(row: Mapping[str, Any]) -> PlanTerms:
    return PlanTerms(
        id=row["id"],
        plan_id=row["plan_id"],
        name=row["name"],
        valid_from=ALWAYS if row["always"] else row["valid_from"],
        amount=row["amount"],
        currency=row["currency"],
        months=row["months"],
        calendar=row["billing_periods"] == "calendar",
        in_arrears=row["fee_timing"] == "arrears",
        trial_days=row["trial_days"],
        includes_usage=row["usage"] == "included",
        meters=read_meters(row["meters"]),
        minimum=row["minimum"],
        limits=json.loads(row["limits"]),
        hard_limits=row["hard_limits"],
    )


async def read_subscriptions(
    connection: Connection,
    period: Period,
    users: Sequence[UUID] | None,
    late: Sequence[UUID],
    *,
    mode: BillingMode = "postpaid",
) -> list[Subscription]:
    """Return the subscriptions that may be charged in a period, with their histories and coupons, by user and id."""
    found = await connection.fetch(SQL["charged_subscriptions"], period.start, period.end, users, late, mode)
    ids = [row["id"] for row in found]
    states: dict[UUID, list[State]] = defaultdict(list)
    for subscription_id, *state in await connection.fetch(SQL["terms"], ids, period.end):
        states[subscription_id].append(State(*state))
    coupons: dict[UUID, list[Redemption]] = defaultdict(list)
    for subscription_id, *coupon in await connection.fetch(SQL["redemptions"], ids, period.end):
        coupons[subscription_id].append(Redemption(*coupon))
    return [
        Subscription(
            row["id"], row["user_id"], row["name"], row["currency"], states[row["id"]], coupons.get(row["id"], ())
        )
        for row in found
    ]


async def unclaimed_since(
    connection: Connection, before: datetime, users: Sequence[UUID] | None
) -> dict[UUID, datetime]:
    """Return since when subscriptions have usage from before a time that no invoice has."""
    return {
        row["subscription_id"]: row["since"] for row in await connection.fetch(SQL["unclaimed_since"], before, users)
    }


@dataclass(frozen=True, slots=True)
class Books:
    """What was used, and what was billed: of usage what invoices have claimed, and what else lies before `unclaimed_before`.

    With `as_of` both as they stood when that invoice was made: usage that it or earlier ones claimed, charges of earlier ones.
    """

    connection: Connection
    unclaimed_before: datetime | None = None
    as_of: UUID | None = None

    async def usage(self, windows: Sequence[Window]) -> list[list[UsageSum]]:
        """Return what was used in each window."""
        sums: list[list[UsageSum]] = [[] for _ in windows]
        if windows:
            query, other = (
                ("usage_of_windows", self.unclaimed_before) if self.as_of is None else ("usage_as_of", self.as_of)
            )
            rows = await self.connection.fetch(
                SQL[query],
                list(range(len(windows))),
                [w.subscription_id for w in windows],
                [w.start for w in windows],
                [w.end for w in windows],
                other,
            )
            for number, *of in rows:
                sums[number].append(UsageSum(*of))
        return sums

    async def billed(self, subscriptions: Sequence[UUID], since: datetime) -> dict[str, Billed]:
        """Return what subscriptions were charged in periods that end after `since`, by key; `key#2` is summed with its key."""
        billed: dict[str, tuple[Decimal, int]] = {}
        with exact():
            for key, amount in await self.connection.fetch(SQL["billed"], subscriptions, since, self.as_of):
                base, _, number = key.partition("#")
                before, last = billed.get(base, (Decimal(0), 0))
                billed[base] = before + amount, max(last, int(number or 1))
        return {key: Billed(*found) for key, found in billed.items()}
