"""What it costs that the log is large already: the rate of a worker and the time of dashboards' queries, at several sizes of it.

The rows that are there beforehand are made in SQL, with their identities, spread over the present month and all subscriptions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from benchmarks.ingest import Traffic
from benchmarks.running import drain, place
from deploy.local.stack import Stack

CHUNK = 1_000_000
QUERIES = {
    "day of a subscription": "SELECT sum(total_tokens) FROM usage_logs WHERE subscription_id = $1 AND created_at > now() - interval '1 day'",
    "month of a subscription": "SELECT model_id, sum(request_count), sum(request_tokens) FROM usage_summaries "
    "WHERE subscription_id = $1 AND period_type = 'day' AND period_start > now() - interval '31 days' GROUP BY 1",
    "last events of a subscription": "SELECT * FROM usage_logs WHERE subscription_id = $1 ORDER BY created_at DESC LIMIT 50",
}


async def measure(stack: Stack, owners: Sequence[str], sent: Traffic, sizes: Sequence[int]) -> dict[int, Any]:
    """Return the rate and the queries' times in milliseconds with so many rows in the log already."""
    found: dict[int, Any] = {}
    for size in sizes:
        async with place(stack, owners, sent) as where:
            connection = where.connection
            for first in range(0, size, CHUNK):
                await fill(connection, owners, min(CHUNK, size - first))
            await connection.execute("VACUUM ANALYZE usage_logs")
            await connection.execute("CHECKPOINT")
            before = int(await connection.fetchval("SELECT count(*) FROM usage_logs"))
            found[size] = {
                "events_per_second": round((await drain(where, sent, before=before)).events_per_second),
                **{name: await _milliseconds(connection, sql, owners) for name, sql in QUERIES.items()},
            }
    return found


async def fill(connection: asyncpg.Connection, owners: Sequence[str], count: int) -> None:
    """Put rows into the log, with their identities."""
    await connection.execute(
        "INSERT INTO usage_logs (created_at, id, subscription_id, batch_id, model_id, provider, request_tokens, response_tokens, latency_ms, "
        "source, request_id, session_id, end_user, metadata) "
        "SELECT date_trunc('month', now()) + random() * (now() - date_trunc('month', now())), gen_random_uuid(), ($1::uuid[])[1 + n % cardinality($1::uuid[])], "
        "gen_random_uuid(), 'model-0', 'openai', n % 8000, n % 2000, n % 20000, '/gateways/filled', 'filled-' || n, 'session-' || n % 100000, "
        "'user-' || n % 100000, '{\"region\": \"eu-central-1\"}' FROM generate_series(1, $2::int) n",
        list(owners), count,
    )  # fmt: skip
    await connection.execute("SELECT guard_usage_ids(now())")


async def _milliseconds(connection: asyncpg.Connection, sql: str, owners: Sequence[str]) -> float:
    """Return the 95th percentile over busy and idle subscriptions."""
    times = []
    for owner in [*owners[:20], *owners[100:5_000:245]]:
        started = time.perf_counter()
        await connection.fetch(sql, owner)
        times.append((time.perf_counter() - started) * 1e3)
    return round(statistics.quantiles(times, n=20)[-1], 2)
