"""How providers do (pure): a verdict from what the source partitions saw of each in its last minutes of traffic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias

from services.aggregator.aggregation import latest
from shared.contracts import LATENCY_BUCKETS_MS

HealthStatus: TypeAlias = Literal["healthy", "degraded", "down"]

DEGRADED_BELOW = Decimal("0.95")
"""Share of requests that succeed, below which a provider is degraded."""
DOWN_BELOW = Decimal("0.5")
"""The same, below which it is down."""
DOWN_AFTER_FAILURES = 10
"""Failures without a success among them, after which it is down whatever came before."""

MINUTE = timedelta(minutes=1)


class Observation(NamedTuple):
    """A row of provider_observations, in the order of the columns that queries.sql returns."""

    provider: str
    minute: datetime
    request_count: int
    error_count: int
    rate_limited_count: int
    latency_sum_ms: int
    latency_count: int
    latency_histogram: Sequence[int]
    last_success_at: datetime | None
    last_failure_at: datetime | None
    trailing_failures: int


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """The verdict on one provider. `success_rate` between 0 and 1; latencies in milliseconds, None where none was reported."""

    provider: str
    status: HealthStatus
    request_count: int
    error_count: int
    rate_limited_count: int
    success_rate: Decimal | None
    avg_latency_ms: Decimal | None
    p95_latency_ms: int | None
    consecutive_failures: int
    last_success_at: datetime | None
    last_failure_at: datetime | None
    window_start: datetime
    window_end: datetime


def judge_providers(observations: Iterable[Observation], window: timedelta) -> list[ProviderHealth]:
    """Return a verdict for each provider. `observations` are sorted by provider and cover `window` up to its last minute."""
    by_provider = groupby(observations, key=attrgetter("provider"))
    return [_judge(provider, list(seen), window) for provider, seen in by_provider]


def _judge(provider: str, seen: Sequence[Observation], window: timedelta) -> ProviderHealth:
    requests = sum(o.request_count for o in seen)
    errors = sum(o.error_count for o in seen)
    rate_limited = sum(o.rate_limited_count for o in seen)
    measured = sum(o.latency_count for o in seen)
    succeeded_at = latest(*(o.last_success_at for o in seen))
    success_rate = (Decimal(requests - errors) / requests).quantize(Decimal("0.0001")) if requests else None
    failures = _failures_since(seen, succeeded_at)
    latency_ms = (
        (Decimal(sum(o.latency_sum_ms for o in seen)) / measured).quantize(Decimal("0.001")) if measured else None
    )
    window_end = max(o.minute for o in seen) + MINUTE
    return ProviderHealth(
        provider=provider,
        status=_status(success_rate, failures, rate_limited),
        request_count=requests,
        error_count=errors,
        rate_limited_count=rate_limited,
        success_rate=success_rate,
        avg_latency_ms=latency_ms,
        p95_latency_ms=percentile(
            [sum(bucket) for bucket in zip(*(o.latency_histogram for o in seen), strict=True)], 95
        ),
        consecutive_failures=failures,
        last_success_at=succeeded_at,
        last_failure_at=latest(*(o.last_failure_at for o in seen)),
        window_start=window_end - window,
        window_end=window_end,
    )


def _status(success_rate: Decimal | None, consecutive_failures: int, rate_limited: int) -> HealthStatus:
    if consecutive_failures >= DOWN_AFTER_FAILURES or (success_rate is not None and success_rate < DOWN_BELOW):
        return "down"
    if rate_limited or (success_rate is not None and success_rate < DEGRADED_BELOW):
        return "degraded"
    return "healthy"


def _failures_since(seen: Sequence[Observation], succeeded_at: datetime | None) -> int:
    """Return the failures after the last success that any partition saw; within that minute it is an upper bound."""
    return sum(
        o.trailing_failures
        for o in seen
        if succeeded_at is None or (o.last_failure_at is not None and o.last_failure_at > succeeded_at)
    )


def percentile(histogram: Sequence[int], percent: int) -> int | None:
    """Return the upper bound in milliseconds of the bucket that holds a percentile; of the open last bucket its lower one.

    None for an empty histogram.
    """
    return percentiles(histogram, (percent,))[0]


def percentiles(histogram: Sequence[int], percents: Sequence[int]) -> list[int | None]:
    """Return several percentiles, given in ascending order: see `percentile`. None where more was taken back than there is."""
    total, below, found = sum(histogram), 0, list[int | None]()
    if total <= 0:
        return [None] * len(percents)
    for bound, count in zip((*LATENCY_BUCKETS_MS, LATENCY_BUCKETS_MS[-1]), histogram, strict=True):
        below += count
        while len(found) < len(percents) and below * 100 >= total * percents[len(found)]:
            found.append(bound)
    return found
