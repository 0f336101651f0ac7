"""The end of last month's billing period: closed into invoices, as the scheduled job does it a few days later."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal

from services.billing.invoices.closing import Closing, close_period
from services.billing.reconciliation import Check
from services.cli.checks import number
from services.cli.demo.display import Display
from shared.clock import FixedClock
from shared.period import Period, month_start
from shared.postgres import Pool

NO_GRACE = timedelta(0)
"""The demo knows that all of last month's usage has come."""


async def close_last_month(pool: Pool, now: datetime, display: Display) -> Check:
    """Issue the invoices of the month before `now`, and say what they come to. Returns whether every customer got theirs."""
    last_month = Period.month_of(month_start(now) - timedelta(days=1))
    closing = await close_period(pool, last_month, clock=FixedClock(now), grace=NO_GRACE)
    totals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for invoice in closing.invoices:
        totals[invoice.currency] += invoice.total
    sums = ", ".join(f"{number(total)} {currency}" for currency, total in sorted(totals.items()))
    display.say(f"{len(closing.invoices)} invoices for {last_month.start:%B %Y}{f', {sums} in all' if sums else ''}")
    return _everyone_invoiced(closing)


def _everyone_invoiced(closing: Closing) -> Check:
    return Check(
        name="closing: customers",
        statement="Every customer with something to pay for last month has an invoice.",
        left_label="to be invoiced",
        left=len(closing.invoices) + len(closing.failures),
        right_label="invoiced",
        right=len(closing.invoices),
        differing=tuple(f"user {customer.user_id}: {error}" for customer, error in closing.failures)[:5],
    )
