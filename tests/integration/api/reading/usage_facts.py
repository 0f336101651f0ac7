"""Usage for the tests of what is read over HTTP: rows of the log, with what the aggregator would have made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.contracts import LATENCY_BUCKETS_MS
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.schema_facts import log_usage, rate_usage

PLACES = ", ".join(
    f"coalesce(sum(quantity) FILTER (WHERE place = {place}), 0)" for place in range(len(LATENCY_BUCKETS_MS) + 1)
)
SUMMARISE = f"""
    INSERT INTO usage_summaries (subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count, request_tokens,
                                 response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
    SELECT subscription_id, kind, date_trunc(kind, created_at, 'UTC'), coalesce(model_id, ''), coalesce(tool_name, ''), sum(quantity),
           coalesce(sum(quantity) FILTER (WHERE status_code >= 400), 0), sum(request_tokens), sum(response_tokens), sum(cached_tokens),
           coalesce(sum(latency_ms * quantity), 0), coalesce(sum(quantity) FILTER (WHERE latency_ms IS NOT NULL), 0), ARRAY[{PLACES}]
    FROM usage_logs, unnest(ARRAY['hour', 'day', 'month']) kind, width_bucket(latency_ms - 1, $2::int[]) place
    WHERE subscription_id = ANY($1::uuid[])
    GROUP BY 1, 2, 3, 4, 5"""  # noqa: S608

HOURS = f"""
    INSERT INTO usage_hours (subscription_id, hour, api_key_id, kind, model_id, tool_name, provider, feature_type, power_level, byok, failed,
                             app_id, request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count,
                             latency_histogram)
    SELECT subscription_id, date_trunc('hour', created_at, 'UTC'), coalesce(api_key_id, '00000000-0000-0000-0000-000000000000'),
           usage_kind(coalesce(model_id, ''), coalesce(tool_name, ''), coalesce(provider, ''), coalesce(feature_type, ''), power_level, byok,
                      status_code >= 400, coalesce(app_id, '')),
           coalesce(model_id, ''), coalesce(tool_name, ''), coalesce(provider, ''), coalesce(feature_type, ''), power_level, byok,
           status_code >= 400, coalesce(app_id, ''), sum(quantity), sum(request_tokens), sum(response_tokens), sum(cached_tokens),
           coalesce(sum(latency_ms * quantity), 0), coalesce(sum(quantity) FILTER (WHERE latency_ms IS NOT NULL), 0), ARRAY[{PLACES}]
    FROM usage_logs, width_bucket(latency_ms - 1, $2::int[]) place
    WHERE subscription_id = ANY($1::uuid[])
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"""  # noqa: S608


@asynccontextmanager
async def unkept(pool: Pool) -> AsyncIterator[None]:
    """Let the hours of uses begin later than anything that the tests use, as in a database that was upgraded."""
    await pool.execute("UPDATE usage_hours_kept SET since = '2026-12-01Z'")
    try:
        yield
    finally:
        await pool.execute("UPDATE usage_hours_kept SET since = '-infinity'")


async def use(pool: Pool, subscription_id: UUID, *events: dict[str, Any]) -> None:
    """Log events of a subscription (columns of usage_logs), and bring its summaries up to date."""
    async with pool.acquire() as connection:
        for event in events:
            await log_usage(connection, subscription_id, **event)
        await connection.execute("DELETE FROM usage_summaries WHERE subscription_id = $1", subscription_id)
        await connection.execute("DELETE FROM usage_hours WHERE subscription_id = $1", subscription_id)
        for sql in (SUMMARISE, HOURS):
            await connection.execute(sql, [subscription_id], list(LATENCY_BUCKETS_MS))


async def rate(pool: Pool, user_id: UUID, subscription_id: UUID, **columns: Any) -> None:
    """Rate usage: one row of rated_usage, at a price of its own unless `amount` is None."""
    rated = {"price_id": uuid7(), "multiplier": 1, "currency": "USD"} if columns.get("amount") is not None else {}
    async with pool.acquire() as connection:
        await rate_usage(connection, subscription_id, user_id, **rated, **columns)


def event(at: datetime, **columns: Any) -> dict[str, Any]:
    """Return an event of gpt-4o at a time."""
    return {
        "created_at": at,
        "provider": "openai",
        "request_tokens": 100,
        "response_tokens": 20,
        "latency_ms": 350,
        **columns,
    }
