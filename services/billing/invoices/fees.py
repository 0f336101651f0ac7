"""Flat fees (pure): when the fee of a subscription falls due."""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.billing.invoices.lines import Fee
from shared.period import Period, utc


@dataclass(frozen=True, slots=True)
class FeeTerms:
    """What a subscription costs flat: `amount` for each `months` months from `anchor` on, never before `started`."""

    subscription_id: UUID
    user_id: UUID
    currency: str
    name: str
    amount: Decimal
    months: int
    anchor: datetime
    started: datetime


def fees_due(terms: FeeTerms, period: Period) -> list[Fee]:
    """Return the fees whose interval begins within `period`: each interval is charged by exactly one of disjoint periods."""
    anchor = utc(terms.anchor)
    step = _months_between(anchor, period.start) // terms.months - 1
    fees = []
    while (start := add_months(anchor, step * terms.months)) < period.end:
        step += 1
        if start in period and start >= utc(terms.started):
            end = add_months(anchor, step * terms.months)
            fees.append(Fee(terms.subscription_id, terms.name, terms.amount, start, end))
    return fees


def add_months(at: datetime, months: int) -> datetime:
    """Return the same day and time `months` later (or earlier); a day that the month lacks becomes its last."""
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    return at.replace(year=year, month=month + 1, day=min(at.day, monthrange(year, month + 1)[1]))


def _months_between(start: datetime, end: datetime) -> int:
    return (end.year - start.year) * 12 + end.month - start.month
