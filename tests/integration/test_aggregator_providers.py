"""provider_observations and provider_health are kept true."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from services.aggregator.jobs import ProviderVerdicts
from shared.clock import FixedClock
from shared.contracts import LATENCY_BUCKET_COUNT, ProviderDelta
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import Aggregator, make_subscription
from tests.unit.aggregator.facts import NOON, recorded

MINUTE = timedelta(minutes=1)


def saw(*, minute: datetime = NOON, requests: int = 10, errors: int = 0, **fields: Any) -> ProviderDelta:
    facts: dict[str, Any] = {
        "provider": "openai",
        "last_success_at": minute + timedelta(seconds=1) if requests > errors else None,
        "last_failure_at": minute + timedelta(seconds=2) if errors else None,
        "trailing_failures": errors,
        **fields,
    }
    return ProviderDelta(minute=minute, requests=requests, errors=errors, **facts)


@pytest.fixture
def verdicts(database_pool: Pool) -> ProviderVerdicts:
    return ProviderVerdicts(database_pool, FixedClock(NOON), window=5 * MINUTE, keep=timedelta(days=7))


async def health(pool: Pool) -> dict[str, Any]:
    return {row["provider"]: row for row in await pool.fetch("SELECT * FROM provider_health")}


async def test_observations_add_up_over_slices_and_batches(database_pool: Pool) -> None:
    await make_subscription(database_pool)
    aggregator = Aggregator(database_pool)
    histogram = [1] + [0] * (LATENCY_BUCKET_COUNT - 1)
    failing = saw(requests=2, errors=2, latency_sum_ms=30, latency_count=1, latency_histogram=histogram)
    await aggregator.apply(recorded(providers=[saw()]), recorded(providers=[failing]))
    await aggregator.apply(recorded(providers=[failing]))
    row = await database_pool.fetchrow("SELECT * FROM provider_observations")
    assert (row["request_count"], row["error_count"], row["trailing_failures"]) == (14, 4, 4)
    assert (row["latency_sum_ms"], row["latency_count"], row["latency_histogram"][0]) == (60, 2, 2)

    await aggregator.apply(recorded(providers=[saw(requests=5, errors=1)]))
    assert await database_pool.fetchval("SELECT trailing_failures FROM provider_observations") == 1


async def test_partitions_keep_rows_of_their_own(database_pool: Pool) -> None:
    for partition in range(2):
        await Aggregator(database_pool, partition).apply(recorded(providers=[saw()]))
    assert await database_pool.fetchval(
        "SELECT array_agg(partition ORDER BY partition) FROM provider_observations"
    ) == [0, 1]


async def test_health_is_judged_from_the_last_minutes_of_traffic(
    database_pool: Pool, verdicts: ProviderVerdicts
) -> None:
    long_ago = NOON - timedelta(hours=1)
    seen = [
        saw(minute=long_ago, errors=10),
        saw(minute=NOON, requests=90),
        saw(minute=NOON + MINUTE, requests=10, errors=9, rate_limited=2),
        saw(provider="anthropic", minute=long_ago, requests=4),
    ]
    await Aggregator(database_pool).apply(recorded(providers=seen))
    await verdicts()

    found = await health(database_pool)
    openai, anthropic = found["openai"], found["anthropic"]
    assert (openai["request_count"], openai["error_count"], openai["rate_limited"]) == (100, 9, True)
    assert (openai["status"], float(openai["success_rate"])) == ("degraded", 0.91)
    assert openai["window_end"] == NOON + 2 * MINUTE
    assert (anthropic["status"], anthropic["window_end"]) == ("healthy", long_ago + MINUTE), (
        "its last traffic, and when that was"
    )


async def test_a_provider_recovers_with_its_traffic(database_pool: Pool, verdicts: ProviderVerdicts) -> None:
    aggregator = Aggregator(database_pool)
    await aggregator.apply(recorded(providers=[saw(errors=10)]))
    await verdicts()
    assert (await health(database_pool))["openai"]["status"] == "down"
    await aggregator.apply(recorded(providers=[saw(minute=NOON + 10 * MINUTE, requests=20)]))
    await verdicts()
    row = (await health(database_pool))["openai"]
    assert (row["status"], row["consecutive_failures"], row["rate_limited"]) == ("healthy", 0, False)
    assert row["last_failure_at"] == NOON + timedelta(seconds=2), "what was known is not forgotten"


async def test_old_observations_are_forgotten(database_pool: Pool, verdicts: ProviderVerdicts) -> None:
    await Aggregator(database_pool).apply(recorded(providers=[saw(), saw(minute=NOON - timedelta(days=8))]))
    await verdicts.forget()
    assert await database_pool.fetchval("SELECT array_agg(minute) FROM provider_observations") == [NOON]


async def test_a_job_that_another_worker_is_at_is_left_to_it(database_pool: Pool, verdicts: ProviderVerdicts) -> None:
    await Aggregator(database_pool).apply(recorded(providers=[saw()]))
    async with transaction(database_pool) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('tallystick.provider_health', 0))")
        await verdicts()
        assert await health(database_pool) == {}
    await verdicts()
    assert "openai" in await health(database_pool)
