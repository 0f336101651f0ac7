"""What it costs that the log is large already: the rates of a worker and of the aggregator, and what dashboards and the API ask, at several sizes of it.

One database grows (see fill.py) and is looked at at each size. The queries are those of the API's capabilities, asked as a tenant for whom
row-level security leaves its own, of busy and of idle subscriptions; "of everybody" is asked as an operator.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from benchmarks.fill import Filled
from benchmarks.measures import Bench
from benchmarks.running import Place, make_customers, place, until_drained, workers
from benchmarks.traffic import Traffic, publish, traffic
from services.api.auth.principal import Principal
from services.api.database import READER, Database
from services.api.usage.buckets import Step, buckets, cover, whole_hours
from services.api.usage.reading import Usage, usage_of
from shared.period import day_start, hour_start
from shared.postgres import create_pool
from shared.sql import Queries

PAGE = 51
"""Events of a page, and the one that says whether there are more."""
DAYS = 30
_SUMMED = "SELECT coalesce(sum(event_count), 0) FROM aggregator_inbox"
_READ = "SELECT coalesce(sum(next_offset), 0) FROM ingest_positions"

Ask = Callable[[Usage, datetime], Awaitable[Any]]


async def measure(bench: Bench, grown: Sequence[int], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return what there is to say with so many rows in the log already."""
    found: dict[str, Any] = {}
    async with place(bench.stack, bench.owners) as where:
        await make_customers(where.connection, bench.owners, prepaid=False)
        filled = await Filled.begin(where.url, bench.owners, bench.stack.directory, say, datetime.now(UTC))
        for number, size in enumerate((0, *grown)):
            rows, size_before, started = size - filled.rows, await _bytes(where), time.monotonic()
            await filled.grow(size)
            seconds = time.monotonic() - started
            found[str(size)] = {
                "filled_seconds": round(seconds),
                "filled_bytes_a_row": round((await _bytes(where) - size_before) / rows, 1) if rows else None,
                **await _rates(where, bench, [10 + number * rounds + extra for extra in range(rounds)]),
                "queries_ms": await _questions(where, bench.owners),
            }
            say(f"with {size:,} rows: {found[str(size)]}")
        await filled.end()
    return found


async def _bytes(where: Place) -> int:
    return int(await where.connection.fetchval("SELECT pg_database_size(current_database())"))


async def _rates(where: Place, bench: Bench, seeds: Sequence[int]) -> dict[str, float]:
    """Return the medians of a worker's drains, and the rate at which the aggregator then takes in what they announced."""
    drains, events = [], 0
    for seed in seeds:
        sent = traffic(bench.size.events, bench.owners, seed)
        publish(where.stack.kafka_bootstrap_servers, where.topic, sent)
        drains.append(await _drain(where, sent, seed))
        events += len(sent.rows)
    summed = await where.connection.fetchval(_SUMMED)
    with workers(where, ["services.aggregator"]) as pids:
        aggregated = await until_drained(where, events, pids, f"{_SUMMED.replace('coalesce', f'-{summed} + coalesce')}")
    return {
        **{name: statistics.median(one[name] for one in drains) for name in drains[0]},
        "aggregator_events_per_second": round(aggregated.events_per_second),
        "aggregator_us": aggregated.used["worker_us"],
    }


async def _drain(where: Place, sent: Traffic, seed: int) -> dict[str, float]:
    """Let a worker drain what was added to the topic, and prove that each event was stored once."""
    counted = "SELECT sum(inserted)::bigint, sum(duplicates)::bigint FROM ingest_positions"
    before, read = await where.connection.fetchrow(counted), await where.connection.fetchval(_READ)
    with workers(where, ["services.ingest"]) as pids:
        result = await until_drained(
            where, len(sent.records), pids, f"{_READ.replace('coalesce', f'-{read} + coalesce')}"
        )
    after = await where.connection.fetchrow(counted)
    inserted, duplicates = (now - (then or 0) for now, then in zip(after, before, strict=True))
    assert (inserted, duplicates) == (len(sent.rows), len(sent.records) - len(sent.rows)), (inserted, duplicates)
    times = [row.created_at for row in sent.rows]
    stored = await where.connection.fetchval(
        "SELECT count(*) FROM usage_logs WHERE created_at BETWEEN $1 AND $2 AND request_id LIKE $3", min(times), max(times), f"req-{seed}-%"
    )  # fmt: skip
    assert stored == len(sent.rows), stored
    return {"events_per_second": round(result.events_per_second), **result.used}


async def _questions(where: Place, owners: Sequence[str]) -> dict[str, float]:
    """Return the 95th percentile of each question in milliseconds, over busy and idle subscriptions."""
    some = [UUID(owner) for owner in (*owners[:20], *owners[100:2_000:95])]
    pool = await create_pool(where.url, role="tallystick_api", max_size=1)
    found = {}
    try:
        database = Database(pool)
        for name, ask in QUESTIONS.items():
            everybody = name.endswith("of everybody")
            times = []
            for owner in some[:6] if everybody else [some[0], *some]:
                principal = Principal(owner, "bench", frozenset({"admin"} if everybody else {"user"}))
                started = time.perf_counter()
                with suppress(
                    asyncpg.QueryCanceledError
                ):  # after 30 s: the API's limit, and then the answer is an error
                    async with usage_of(database, principal, None if everybody else owner) as usage:
                        await ask(usage, datetime.now(UTC))
                times.append((time.perf_counter() - started) * 1e3)
            found[name] = round(statistics.quantiles(times[1:], n=20, method="inclusive")[-1], 2)
    finally:
        await pool.close()
    return found


async def _series(usage: Usage, start: datetime, now: datetime, step: Step, group: str | None) -> None:
    """As GET /api/v1/usage and the console's charts."""
    period = whole_hours(start, now)
    begins = [bucket.period.start for bucket in buckets(step, period, ZoneInfo("UTC"))]
    await usage.series(begins, period.end, group)


async def _series_of_hours(usage: Usage, start: datetime, now: datetime, group: str) -> None:
    period = whole_hours(start, now)
    begins = [bucket.period.start for bucket in buckets("day", period, ZoneInfo("UTC"))]
    await usage.fetch("series_of_hours", period.start, period.end, begins, group)


async def _by_model(usage: Usage, now: datetime) -> None:
    """As GET /api/v1/analytics and the console's usage page."""
    period = whole_hours(_days_ago(now), now)
    *runs, _ = map(list, zip(*cover([period.start, period.end]), strict=True))
    await usage.fetch("analytics_by_model", period.start, period.end, *runs)


async def _standing(usage: Usage, _now: datetime) -> None:
    """As gateways ask for an entitlement, and the console for its counters."""
    sql = Queries.load("services.api.subscriptions")["quotas"]
    await usage.connection.fetch(sql, *(usage.subscriptions or ()), None)


async def _explained(usage: Usage, now: datetime) -> None:
    """As GET /api/v1/explain for a summary of an hour: what its events sum to."""
    await usage.connection.execute(Queries.load("services.api")["see_all"], READER)
    sql = Queries.load("services.billing.provenance")["summarised"]
    hour = hour_start(now) - timedelta(hours=2)
    await usage.connection.fetch(sql, *(usage.subscriptions or ()), hour, hour + timedelta(hours=1), "model-0", "")


def _days_ago(now: datetime, days: int = DAYS) -> datetime:
    return day_start(now) - timedelta(days=days - 1)


QUESTIONS: dict[str, Ask] = {
    "30 days by day and model": lambda usage, now: _series(usage, _days_ago(now), now, "day", "model"),
    "today by hour": lambda usage, now: _series(usage, day_start(now), now, "hour", None),
    "analytics of 30 days by model": _by_model,
    "analytics of 30 days by feature": lambda usage, now: usage.fetch(
        "analytics_by_rating", _days_ago(now), now, "feature"
    ),
    "newest 50 events": lambda usage, _: usage.newest([None] * 5, None, None, [None, None], PAGE),
    "quotas": _standing,
    "an hour explained": _explained,
    "a day by app": lambda usage, now: _series_of_hours(usage, day_start(now), now, "app"),
    "30 days by app": lambda usage, now: _series_of_hours(usage, _days_ago(now), now, "app"),
    "30 days by day and model, of everybody": lambda usage, now: _series(usage, _days_ago(now), now, "day", "model"),
}
