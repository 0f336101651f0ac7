"""Forecast (pure): what a running period is likely to come to.

Method, deterministic: usage goes on at the average rate of the period so far. What was used in the elapsed part is scaled to the whole
period; charges of plans and adjustments that are known are taken as they are; credits are taken off as far as they go.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from shared.money import round_money
from shared.period import Period

METHOD = (
    "linear: usage so far, scaled from the elapsed part of the period to all of it; charges and adjustments as known"
)
SHORTEST = timedelta(hours=1)
"""Less than this of a period says nothing about the rest of it."""


def forecast_usage(used: Decimal, period: Period, now: datetime, currency: str) -> Decimal | None:
    """Return what usage of the whole period comes to, in whole minor units; `used` is what has been used by `now`. None: too early."""
    elapsed = min(now, period.end) - period.start
    if elapsed < SHORTEST:
        return None
    scaled = Fraction(used) * Fraction(
        period.duration // timedelta(microseconds=1), elapsed // timedelta(microseconds=1)
    )
    digits = Decimal(10) ** 12  # far below a minor unit; a fraction of hours is rarely a finite decimal
    return round_money(Decimal(round(scaled * int(digits))) / digits, currency)
