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
    subscriptions = await store.read_subscriptions(connection, period, users, list(since))
    return await _by_customer(store.Books(connection, unclaimed_before=period.end), period, subscriptions, since)


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
    subscriptions = await store.read_subscriptions(connection, period, users, list(claimed_since))
    due = await _by_customer(store.Books(connection), period, subscriptions, claimed_since)
    return {customer: found for customer, found in due.items() if customer in wanted}


async def charges_then(
    connection: Connection, period: Period, *, user_id: UUID, subscription_id: UUID, since: datetime, invoice_id: UUID
) -> list[Charge]:
    """Return the charges of a subscription as they were made for an invoice of `period`: by the usage that it and earlier ones claimed.

    Windows that begin before the period are computed from `since` on.
    """
    found = await store.read_subscriptions(connection, period, [user_id], [subscription_id])
    books = store.Books(connection, as_of=invoice_id)
    wanted = [subscription for subscription in found if subscription.id == subscription_id]
    due = await _by_customer(books, period, wanted, {subscription_id: since})
    return [charge for charges_ in due.values() for charge in charges_]


@dataclass(frozen=True, slots=True)
class _Account:
    """A subscription with the intervals that a period concerns, and the coupons of each."""

    subscription: Subscription
    intervals: list[Interval]
    coupons: InForce
    windows: list[Window]


async def _by_customer(
    books: store.Books, period: Period, subscriptions: Sequence[Subscription], used_since: Mapping[UUID, datetime]
) -> dict[Customer, list[Charge]]:
    plans = await store.read_plans(books.connection)
    accounts = [
        _account(s, plans, period, min(period.start, used_since.get(s.id, period.start))) for s in subscriptions
    ]
    earliest = min((i.whole[0] for a in accounts for i in a.intervals), default=period.start)
    billed = await books.billed([s.id for s in subscriptions], earliest - _INSTANT)
    usage = iter(await books.usage([w for a in accounts for w in a.windows]))
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
