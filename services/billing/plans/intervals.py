"""Billing intervals and shares of them (pure): calendar arithmetic in UTC, by the second."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Final

from shared.money import exact

CALENDAR_ANCHOR: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""What intervals are counted from that begin with calendar months: quarters in January, years on 1 January."""
SHARE_DIGITS: Final = Decimal("1e-12")
"""A share of an amount rarely has an end in decimals: it is kept to a billionth of a thousandth."""
_SECOND: Final = timedelta(seconds=1)
_DIVISION: Final = Context(prec=100, traps=[InvalidOperation, DivisionByZero, Overflow])


def add_months(at: datetime, months: int) -> datetime:
    """Return the same day and time `months` later (or earlier); a day that the month lacks becomes its last."""
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    return at.replace(year=year, month=month + 1, day=min(at.day, monthrange(year, month + 1)[1]))


def intervals(anchor: datetime, months: int, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield the intervals `[a, b)` of `months` months, counted from `anchor`, that overlap `[start, end)`, in order."""
    step = ((start.year - anchor.year) * 12 + start.month - anchor.month) // months - 1
    while (begins := add_months(anchor, step * months)) < end:
        step += 1
        ends = add_months(anchor, step * months)
        if ends > start:
            yield begins, ends


def share(amount: Decimal, whole: tuple[datetime, datetime], start: datetime, end: datetime) -> Decimal:
    """Return the share of `amount`, which is for `whole`, that falls to `[start, end)`, by whole seconds.

    It is the difference of what has accrued at both ends, each kept to SHARE_DIGITS: so the shares of any partition of `whole` sum
    to `amount`, exactly.
    """
    with exact():
        until, before = (_accrued(amount, whole, at, SHARE_DIGITS, ROUND_HALF_UP) for at in (end, start))
        return until - before


def whole_share(quantity: Decimal, whole: tuple[datetime, datetime], start: datetime, end: datetime) -> Decimal:
    """Return the same of a quantity that comes in whole units: the shares of any partition sum to it."""
    one = Decimal(1)
    return _accrued(quantity, whole, end, one, ROUND_FLOOR) - _accrued(quantity, whole, start, one, ROUND_FLOOR)


def _accrued(amount: Decimal, whole: tuple[datetime, datetime], at: datetime, step: Decimal, rounding: str) -> Decimal:
    begins, ends = whole
    if at <= begins:
        return Decimal(0)
    if at >= ends:
        return amount
    passed, total = (at - begins) // _SECOND, (ends - begins) // _SECOND
    with exact():
        due = amount * passed
    return _DIVISION.divide(due, Decimal(total)).quantize(step, rounding, _DIVISION)
