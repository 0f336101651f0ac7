"""Quotas (pure): which period the counters count, which thresholds are crossed, when a subscription is suspended.

The rule of suspension itself is decided by the trigger `check_subscription_quota`, whoever changes a row; `judge` is its
model, which tests hold against the trigger on random histories.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from services.aggregator.aggregation import UsageByHour
from shared.period import utc

Interval: TypeAlias = Literal["day", "week", "month"]
Dimension: TypeAlias = Literal["requests", "tokens"]

FINAL_STATUSES = frozenset({"cancelled", "expired"})
"""A subscription that has ended keeps the counters of its last period: nothing resets it."""

_LIVE = frozenset({"active", "trialing", "suspended"})
_QUOTA_REASONS = ("quota_requests", "quota_tokens")


@dataclass(frozen=True, slots=True)
class QuotaPeriod:
    """The half-open interval `[start, reset_at)` that the counters count; `reset_at` None: it never ends."""

    start: datetime
    reset_at: datetime | None

    def __contains__(self, hour: datetime) -> bool:
        return self.start <= hour and (self.reset_at is None or hour < self.reset_at)

    def is_over(self, now: datetime) -> bool:
        """Tell whether the period has to be rolled."""
        return self.reset_at is not None and self.reset_at <= now


def period_at(period: QuotaPeriod, now: datetime, interval: Interval) -> QuotaPeriod:
    """Return the period that holds `now`: the given one, or the one reached by as many resets as were missed."""
    while period.reset_at is not None and period.reset_at <= now:
        period = QuotaPeriod(period.reset_at, next_reset(period.start, period.reset_at, interval))
    return period


def next_reset(start: datetime, reset_at: datetime, interval: Interval) -> datetime:
    """Return the reset after `reset_at`, in UTC, at the same time of day.

    By the month it falls on the same day. A day that a month lacks becomes its last one, for that month alone: the
    31st goes on to 28 February and then to 31 March, because `start` still tells the day.
    """
    start, reset_at = utc(start), utc(reset_at)
    if interval != "month":
        return reset_at + timedelta(days=7 if interval == "week" else 1)
    clipped = reset_at.day == _days_in(reset_at.year, reset_at.month) and start.day > reset_at.day
    day = start.day if clipped else reset_at.day
    year, month = (reset_at.year + 1, 1) if reset_at.month == 12 else (reset_at.year, reset_at.month + 1)
    return reset_at.replace(year=year, month=month, day=min(day, _days_in(year, month)))


def _days_in(year: int, month: int) -> int:
    return monthrange(year, month)[1]


def counted(usage: UsageByHour, period: QuotaPeriod) -> tuple[int, int]:
    """Return the requests and tokens whose hour lies in the period: late and early ones belong to another."""
    inside = [amounts for hour, amounts in usage.items() if hour in period]
    return sum(requests for requests, _ in inside), sum(tokens for _, tokens in inside)


def thresholds_reached(used: int, quota: int | None, percents: Iterable[int]) -> list[int]:
    """Return which of the percentages of a quota are used, in rising order. None of an unlimited quota, all of an empty one."""
    if quota is None:
        return []
    return [percent for percent in sorted(percents) if used * 100 >= quota * percent]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the quota rule judges of a subscription. `before_suspension` is what it becomes when no reason is left."""

    status: str
    reasons: frozenset[str] = frozenset()
    before_suspension: str | None = None
    quota_requests: int | None = None
    quota_tokens: int | None = None
    used_requests: int = 0
    used_tokens: int = 0


def judge(standing: Standing) -> Standing:
    """Return the standing after the quota rule: quota reasons follow from used and quota, the status from all reasons.

    At `used >= quota` an active or trialing subscription is suspended; when the last reason is gone it becomes again
    what it was. One that is pending, paused, cancelled or expired never becomes suspended.
    """
    if standing.status not in _LIVE:
        return replace(standing, reasons=frozenset(), before_suspension=None)
    limits = (standing.quota_requests, standing.quota_tokens)
    exhausted = _exhausted(limits, (standing.used_requests, standing.used_tokens))
    reasons = (standing.reasons - set(_QUOTA_REASONS)) | exhausted
    was_suspended = standing.status == "suspended"
    if not reasons:
        status = (standing.before_suspension or "active") if was_suspended else standing.status
        return replace(standing, status=status, reasons=reasons, before_suspension=None)
    before = (standing.before_suspension or "active") if was_suspended else standing.status
    return replace(standing, status="suspended", reasons=reasons, before_suspension=before)


def _exhausted(quotas: Sequence[int | None], used: Sequence[int]) -> frozenset[str]:
    reached = zip(_QUOTA_REASONS, quotas, used, strict=True)
    return frozenset(reason for reason, quota, amount in reached if quota is not None and amount >= quota)


def remaining(quota: int | None, used: int) -> int | None:
    """Return what is left of a quota, never below zero; None where there is no limit."""
    return None if quota is None else max(0, quota - used)
