"""Quotas (pure): which period the counters count, which thresholds are crossed, when a subscription is suspended.

The rule of suspension itself is decided by the trigger `check_subscription_quota`, whoever changes a row; `judge` is its
model, which tests hold against the trigger on random histories.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID

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


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """What is up to the operator: the length of the next quota period, and the percentages that raise an alert."""

    interval: Interval = "month"
    thresholds: tuple[int, ...] = (50, 80, 100)


class Subscription(NamedTuple):
    """A subscription's counters and standing, in the order of the columns that queries.sql returns."""

    id: UUID
    status: str
    suspended_reasons: Sequence[str]
    quota_requests: int | None
    quota_tokens: int | None
    used_requests: int
    used_tokens: int
    quota_period_start: datetime
    reset_at: datetime | None
    status_version: int
    status_published_version: int

    @property
    def period(self) -> QuotaPeriod:
        return QuotaPeriod(self.quota_period_start, self.reset_at)

    def is_due(self, now: datetime) -> bool:
        """Tell whether the quota period has to be rolled. One that has ended keeps the counters of its last period."""
        return self.reset_at is not None and self.reset_at <= now and self.status not in FINAL_STATUSES


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to counters: add requests and tokens, or start another period and sum its hours."""

    increments: Sequence[tuple[UUID, int, int]]
    rolls: Sequence[tuple[UUID, QuotaPeriod]]


def plan(
    subscriptions: Iterable[Subscription], usage: Mapping[UUID, UsageByHour], now: datetime, interval: Interval
) -> Plan:
    """Decide what usage, whose summaries are stored already, does to the counters of locked subscriptions.

    A period that is over is rolled first: its successor's counters are the sum of its hours, which hold `usage` by then.
    """
    increments: list[tuple[UUID, int, int]] = []
    rolls: list[tuple[UUID, QuotaPeriod]] = []
    for subscription in subscriptions:
        if subscription.is_due(now):
            rolls.append((subscription.id, period_at(subscription.period, now, interval)))
            continue
        requests, tokens = counted(usage.get(subscription.id, {}), subscription.period)
        if requests or tokens:
            increments.append((subscription.id, requests, tokens))
    return Plan(increments, rolls)


class Threshold(NamedTuple):
    """A percentage of one quota that is used."""

    subscription_id: UUID
    dimension: Dimension
    percent: int
    used: int
    quota: int


def thresholds(
    subscriptions: Iterable[Subscription], percents: Sequence[int], told: Mapping[UUID, Subscription]
) -> list[Threshold]:
    """Return every threshold that the counters have reached, but for those that a subscription had reached in `told`.

    New or not: the database knows which were raised before. `told` are subscriptions as they were when all of theirs had been raised.
    """
    reached: list[Threshold] = []
    for s in subscriptions:
        before = told.get(s.id)
        both: tuple[tuple[Dimension, int, int | None, int], ...] = (
            ("requests", s.used_requests, s.quota_requests, before.used_requests if before else -1),
            ("tokens", s.used_tokens, s.quota_tokens, before.used_tokens if before else -1),
        )
        for dimension, used, quota, told_at in both:
            if quota is not None:
                reached += [
                    Threshold(s.id, dimension, p, used, quota)
                    for p in percents
                    if told_at * 100 < quota * p <= used * 100
                ]
    return reached


def counted(usage: UsageByHour, period: QuotaPeriod) -> tuple[int, int]:
    """Return the requests and tokens whose hour lies in the period: late and early ones belong to another."""
    inside = [amounts for hour, amounts in usage.items() if hour in period]
    return sum(requests for requests, _ in inside), sum(tokens for _, tokens in inside)


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
    """Return what is left of a quota, never below zero; None where there is no limit.

    Nor more than the quota, while usage that was taken back is applied before the usage itself.
    """
    return None if quota is None else max(0, quota - max(0, used))
