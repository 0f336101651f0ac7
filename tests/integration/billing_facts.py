"""Facts for billing's tests: customers, prices, and usage as ingest and the aggregator would have written it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.ingest.deltas import aggregate
from services.ingest.rows import UsageRow
from shared.contracts import LATENCY_BUCKET_COUNT, Origin, UsageRecorded
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Connection

OCTOBER = Period.parse_month("2026-10")
NOVEMBER = Period.parse_month("2026-11")
NOON = datetime(2026, 10, 14, 12, tzinfo=UTC)
CLUSTER = "main"
SOURCE = Origin(CLUSTER, "usage.events", 0, 0)


@dataclass(frozen=True, slots=True)
class Customer:
    """A user with one subscription."""

    user_id: UUID
    subscription_id: UUID


async def make_customer(
    connection: Connection, *, billing_mode: str = "postpaid", currency: str = "USD", plan_id: str = "enterprise"
) -> Customer:
    """Store a user with an active subscription to a plan, without quotas and without a fee of its own."""
    user_id, subscription_id = uuid7(), uuid7()
    await connection.execute("INSERT INTO users (id, email) VALUES ($1, $2)", user_id, f"{user_id.hex}@example.com")
    await add_subscription(
        connection, user_id, subscription_id, billing_mode=billing_mode, currency=currency, plan_id=plan_id
    )
    return Customer(user_id, subscription_id)


async def add_subscription(
    connection: Connection,
    user_id: UUID,
    subscription_id: UUID,
    *,
    billing_mode: str = "postpaid",
    currency: str = "USD",
    plan_id: str = "enterprise",
) -> None:
    """Store one more subscription of a user."""
    await connection.execute(
        """INSERT INTO subscriptions (id, user_id, plan_id, status, billing_mode, currency, amount,
                                      quota_requests, quota_tokens, quota_period_start)
           VALUES ($1, $2, $3, 'active', $4, $5, 0, NULL, NULL, '2026-01-01Z')""",
        subscription_id,
        user_id,
        plan_id,
        billing_mode,
        currency,
    )


def usage(subscription_id: UUID, *, at: datetime = NOON, model: str | None = "gpt-4o", **fields: Any) -> UsageRow:
    """Return one usage record."""
    facts: dict[str, Any] = dict.fromkeys(UsageRow._fields)
    facts.update(
        created_at=at,
        id=uuid7(),
        subscription_id=subscription_id,
        batch_id=UUID(int=0),
        model_id=model,
        provider="openai",
        request_tokens=0,
        response_tokens=0,
        cached_tokens=0,
        status_code=200,
        power_level="balanced",
        byok=False,
        source="/gateways/test",
        request_id=uuid7().hex,
    )
    return UsageRow(**{**facts, **fields})


async def ingest(connection: Connection, rows: Sequence[UsageRow]) -> UsageRecorded:
    """Store a batch as ingest does, with its position, and its summaries as the aggregator does. Returns what it announces."""
    batch_id = uuid7()
    rows = [row._replace(batch_id=batch_id) for row in rows]
    for month in {row.created_at.strftime("%Y-%m-01Z") for row in rows}:
        await connection.execute("SELECT ensure_usage_partition($1::text::timestamptz)", month)
    await connection.copy_records_to_table("usage_logs", columns=UsageRow._fields, records=rows)
    await connection.execute(
        """WITH position AS (
               INSERT INTO ingest_positions AS p (cluster, topic, partition, epoch, start_offset, next_offset, inserted)
               VALUES ($2, $3, $4, $5, 0, $6, $6)
               ON CONFLICT (cluster, topic, partition, epoch)
               DO UPDATE SET next_offset = p.next_offset + $6, inserted = p.inserted + $6
               RETURNING next_offset)
           INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, epoch, first_offset, next_offset,
                                      inserted, duplicates, quarantined, held, gaps, message_count)
           SELECT $1, 'kafka', $2, $3, $4, $5, next_offset - $6, next_offset, $6, 0, 0, 0, 0, 1 FROM position""",
        batch_id, SOURCE.cluster, SOURCE.topic, SOURCE.partition, SOURCE.epoch, len(rows),
    )  # fmt: skip
    await connection.execute("INSERT INTO aggregator_inbox VALUES ($1, 0, $2)", batch_id, len(rows))
    await summarise(connection)
    deltas, providers = aggregate(rows)
    return UsageRecorded(batch_id, 0, 1, SOURCE, NOON + timedelta(hours=1), len(rows), deltas, providers)


async def summarise(connection: Connection) -> None:
    """Derive summaries and counters from the log."""
    await connection.execute("DELETE FROM usage_summaries")
    for period_type in ("hour", "day", "month"):
        await connection.execute(
            """INSERT INTO usage_summaries (subscription_id, period_type, period_start, model_id, tool_name, request_count,
                   error_count, request_tokens, response_tokens, cached_tokens, latency_histogram)
               SELECT subscription_id, $1, date_trunc($1, created_at, 'UTC'), coalesce(model_id, ''), coalesce(tool_name, ''),
                   count(*), count(*) FILTER (WHERE status_code >= 400), sum(request_tokens), sum(response_tokens),
                   sum(cached_tokens), array_fill(0, ARRAY[$2::int])
               FROM usage_logs GROUP BY 1, 3, 4, 5""",
            period_type,
            LATENCY_BUCKET_COUNT,
        )
    await connection.execute(
        """UPDATE subscriptions s SET used_requests = u.requests, used_tokens = u.tokens
           FROM (SELECT subscription_id, count(*) AS requests, sum(total_tokens) AS tokens FROM usage_logs GROUP BY 1) u
           WHERE s.id = u.subscription_id"""
    )
