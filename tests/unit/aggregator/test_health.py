"""Verdicts on providers."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregator.health import DOWN_AFTER_FAILURES, Observation, judge_providers, percentile, percentiles
from shared.contracts import LATENCY_BUCKET_COUNT, LATENCY_BUCKETS_MS
from tests.unit.aggregator.facts import NOON

FIVE_MINUTES = timedelta(minutes=5)


def seen(
    provider: str = "openai", *, minute: datetime = NOON, requests: int = 100, errors: int = 0, **fields: Any
) -> Observation:
    facts: dict[str, Any] = {
        "rate_limited_count": 0, "latency_sum_ms": 0, "latency_count": 0, "latency_histogram": [0] * LATENCY_BUCKET_COUNT,
        "last_success_at": minute if requests > errors else None, "last_failure_at": minute if errors else None,
        "trailing_failures": 0 if requests > errors else errors,
    }  # fmt: skip
    return Observation(provider, minute, requests, errors, **{**facts, **fields})


@pytest.mark.parametrize(
    ("errors", "verdict"), [(0, "healthy"), (5, "healthy"), (6, "degraded"), (50, "degraded"), (51, "down")]
)
def test_the_share_of_successes_decides(errors: int, verdict: str) -> None:
    (health,) = judge_providers([seen(errors=errors)], FIVE_MINUTES)
    assert health.status == verdict
    assert health.success_rate == Decimal(100 - errors) / 100


def test_a_rate_limited_provider_is_degraded() -> None:
    (health,) = judge_providers([seen(errors=1, rate_limited_count=1)], FIVE_MINUTES)
    assert health.status == "degraded"


def test_failures_in_a_row_bring_it_down_although_most_requests_succeeded() -> None:
    later = NOON + timedelta(minutes=1)
    failing = seen(minute=later, requests=DOWN_AFTER_FAILURES, errors=DOWN_AFTER_FAILURES)
    (health,) = judge_providers([seen(requests=1000), failing], FIVE_MINUTES)
    assert (health.status, health.consecutive_failures) == ("down", DOWN_AFTER_FAILURES)


def test_a_success_in_any_partition_ends_the_row_of_failures() -> None:
    earlier = NOON - timedelta(minutes=1)
    failing = seen(minute=earlier, requests=20, errors=20)
    (health,) = judge_providers([failing, seen(requests=1000)], FIVE_MINUTES)
    assert (health.status, health.consecutive_failures) == ("healthy", 0)


def test_partitions_and_minutes_add_up_and_the_window_ends_with_the_traffic() -> None:
    buckets = [0] * LATENCY_BUCKET_COUNT
    buckets[2] = 10
    both = [
        seen(minute=NOON + timedelta(minutes=m), latency_sum_ms=1500, latency_count=10, latency_histogram=buckets)
        for m in (0, 3)
    ]
    (health,) = judge_providers(both, FIVE_MINUTES)
    assert (health.request_count, health.avg_latency_ms, health.p95_latency_ms) == (200, Decimal(150), 200)
    assert (health.window_start, health.window_end) == (NOON - timedelta(minutes=1), NOON + timedelta(minutes=4))


def test_each_provider_has_a_verdict_of_its_own() -> None:
    verdicts = judge_providers([seen("anthropic"), seen("openai", errors=100)], FIVE_MINUTES)
    assert [(v.provider, v.status) for v in verdicts] == [("anthropic", "healthy"), ("openai", "down")]


@given(st.lists(st.integers(0, 60_000), max_size=50), st.integers(1, 100))
def test_a_percentile_is_bounded_by_its_bucket(latencies: list[int], percent: int) -> None:
    histogram = [0] * LATENCY_BUCKET_COUNT
    for latency in latencies:
        histogram[sum(latency > bound for bound in LATENCY_BUCKETS_MS)] += 1
    bound = percentile(histogram, percent)

    if not latencies:
        assert bound is None
        return
    exact = sorted(latencies)[-(-len(latencies) * percent // 100) - 1]
    assert bound is not None
    assert bound >= min(exact, LATENCY_BUCKETS_MS[-1])
    assert all(lower >= bound or lower < exact for lower in (0, *LATENCY_BUCKETS_MS)) or exact == 0


@given(st.lists(st.integers(-3, 20), min_size=12, max_size=12))
def test_percentiles_at_once_are_those_one_by_one(histogram: list[int]) -> None:
    together = percentiles(histogram, (50, 95, 99))
    assert together == [percentile(histogram, percent) for percent in (50, 95, 99)]
    assert (None in together) == (sum(histogram) <= 0)
