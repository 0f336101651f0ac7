"""Which charges of plans fall due in a period, and were not billed yet.

The history of a subscription gives its intervals; these give fees, and windows of usage; what was billed is subtracted. The pure parts
are in timeline.py, fees.py, windows.py and coupons.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from services.billing.customer import Customer
from services.billing.plans import store
from services.billing.plans.charge import Charge
from services.billing.plans.coupons import InForce, in_force, off_fee, off_usage
from services.billing.plans.fees import Due, fees_due
from services.billing.plans.meters import UsageSum
from services.billing.plans.terms import Versions
from services.billing.plans.timeline import Interval, Subscription, timeline
from services.billing.plans.windows import Billed, Target, Window, charges, windows
from shared.period import Period
from shared.postgres import Connection

_INSTANT = timedelta(microseconds=1)


async def charges_due(
    connection: Connection, period: Period, only_user: UUID | None = None
) -> dict[Customer, list[Charge]]:
    """Return the charges of all customers, or of one, that would fall due in `period` if it were closed now. Reads only."""
    users = None if only_user is None else [only_user]
    since = await store.unclaimed_since(connection, period.start, users)
    return await _charges(connection, period, users, since, unclaimed_before=period.end)


async def take_charges(
    connection: Connection,
    period: Period,
    customers: Sequence[Customer],
    claimed_since: Mapping[UUID, datetime],
) -> dict[Customer, list[Charge]]:
    """Return the charges of customers whose usage has just been claimed by their invoices, in the transaction that issues these.

    Only claimed usage counts, so that what is charged is what those invoices and earlier ones show, whatever is rated meanwhile.
    `claimed_since` says for each subscription with claimed usage from when on that is: before the period it is late.
    """
    wanted, users = set(customers), sorted({customer.user_id for customer in customers})
    due = await _charges(connection, period, users, claimed_since, unclaimed_before=None)
    return {customer: found for customer, found in due.items() if customer in wanted}


@dataclass(frozen=True, slots=True)
class _Account:
    """A subscription with the intervals that a period concerns, and the coupons of each."""

    subscription: Subscription
    intervals: list[Interval]
    coupons: InForce
    windows: list[Window]


async def _charges(
    connection: Connection,
    period: Period,
    users: Sequence[UUID] | None,
    used_since: Mapping[UUID, datetime],
    *,
    unclaimed_before: datetime | None,
) -> dict[Customer, list[Charge]]:
    plans = await store.read_plans(connection)
    subscriptions = await store.read_subscriptions(connection, period, users, list(used_since))
    accounts = [
        _account(s, plans, period, min(period.start, used_since.get(s.id, period.start))) for s in subscriptions
    ]
    earliest = min((i.whole[0] for a in accounts for i in a.intervals), default=period.start)
    billed = await store.read_billed(connection, [s.id for s in subscriptions], earliest - _INSTANT)
    usage = iter(await store.read_usage(connection, [w for a in accounts for w in a.windows], unclaimed_before))
    found: dict[Customer, list[Charge]] = defaultdict(list)
    for account in accounts:
        of_windows = [(window, next(usage)) for window in account.windows]
        for currency, charge in _due(account, of_windows, billed, period):
            found[Customer(account.subscription.user_id, currency)].append(charge)
    return dict(found)


def _account(subscription: Subscription, plans: Mapping[str, Versions], period: Period, since: datetime) -> _Account:
    redeemed = min((r.redeemed_at for r in subscription.redemptions), default=since)
    intervals = list(timeline(subscription, plans, min(since, redeemed), period.end))
    coupons = in_force(subscription.redemptions, intervals)
    concerned = [interval for interval in intervals if interval.ends > since]
    on_usage = {begins for begins, found in coupons.items() if not all(r.fee_only for r in found)}
    return _Account(
        subscription,
        concerned,
        coupons,
        [
            window
            for window in windows(subscription.id, concerned)
            if window.end > since and (window.terms.concerns_usage or window.interval.begins in on_usage)
        ],
    )


def _due(
    account: _Account, usage: Sequence[tuple[Window, Sequence[UsageSum]]], billed: Mapping[str, Billed], period: Period
) -> Iterator[tuple[str, Charge]]:
    for fee in fees_due(account.subscription.id, account.intervals, period):
        for due in _with_discounts(account, fee):
            if due.charge.key not in billed:
                yield due.currency, due.charge
    for window, sums in usage:

        def discounted(amount: Decimal, window: Window = window) -> Iterator[Target]:
            return off_usage(account.coupons.get(window.interval.begins, ()), amount, window.terms.currency)

        yield from charges(
            window,
            sums,
            account.subscription.usage_currency,
            lambda key: billed.get(key, Billed()),
            period,
            discounted=discounted,
        )


def _with_discounts(account: _Account, fee: Due) -> Iterator[Due]:
    yield fee
    yield from off_fee(fee, account.coupons.get(fee.interval.begins, ()))
