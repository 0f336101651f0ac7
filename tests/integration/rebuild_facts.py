"""Batches as ingest commits and announces them, and what the aggregator makes of them when it is told to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from services.ingest.announcement import announce_recorded
from services.ingest.deltas import aggregate
from services.ingest.rows import UsageRow
from shared.contracts import Origin, UsageDelta, UsageRecorded, decode_recorded
from shared.ids import uuid7
from shared.postgres import Pool, transaction
from tests.integration.billing_facts import usage
from tests.unit.aggregator.facts import NOON

ORIGIN = Origin("main", "usage.events", 0, 0)


def some_rows(
    chance: random.Random, subscriptions: Sequence[UUID], count: int, *, around: datetime = NOON
) -> list[UsageRow]:
    """Return usage of any kind within about 70 days before `around`, with edges of days and months among its times."""
    return [_row(chance, chance.choice(subscriptions), around) for _ in range(count)]


def _row(chance: random.Random, subscription: UUID, around: datetime) -> UsageRow:
    edge = chance.choice([around, datetime(around.year, around.month, 1, tzinfo=around.tzinfo)])
    at = edge - chance.choice([timedelta(0), timedelta(microseconds=1), timedelta(seconds=chance.randrange(6_000_000))])
    tool = chance.random() < 0.2
    request_tokens = chance.randrange(5_000)
    return usage(
        subscription,
        at=at,
        model=None if tool else chance.choice(["gpt-4o", "claude"]),
        tool_name="search" if tool else None,
        request_tokens=request_tokens,
        response_tokens=chance.randrange(500),
        cached_tokens=chance.randrange(request_tokens + 1),
        status_code=chance.choice([200, 200, 201, 399, 400, 429, 500]),
        latency_ms=chance.choice([None, 0, 49, 50, 51, 100, 51_200, 51_201, chance.randrange(100_000)]),
        power_level=chance.choice(["balanced", "max"]),
        provider=chance.choice(["openai", "azure", None]),
        byok=chance.random() < 0.1,
        feature_type=chance.choice(["chat", None]),
        app_id=chance.choice(["crm", "shop", None]),
    )


async def store_batch(pool: Pool, rows: Sequence[UsageRow], *, parts: int = 1) -> list[UsageRecorded]:
    """Commit a batch as ingest does, with its position; return the messages that announce it, at least `parts`."""
    batch_id = uuid7()
    rows = [row._replace(batch_id=batch_id) for row in rows]
    messages = [
        decode_recorded(message.value or b"") for message in announce_recorded(batch_id, ORIGIN, aggregate(rows), NOON)
    ]
    if len(messages) == 1:
        messages = _split(messages[0], parts)
    async with transaction(pool) as connection:
        for at in {row.created_at for row in rows}:
            await connection.execute("SELECT ensure_usage_partition($1)", at)
        next_offset = await connection.fetchval(
            """INSERT INTO ingest_positions AS p (cluster, topic, partition, epoch, start_offset, next_offset, inserted)
               VALUES ('main', 'usage.events', 0, 0, 0, $1, $1)
               ON CONFLICT (cluster, topic, partition, epoch)
               DO UPDATE SET next_offset = p.next_offset + $1, inserted = p.inserted + $1 RETURNING next_offset""",
            len(rows),
        )
        await connection.copy_records_to_table("usage_logs", columns=UsageRow._fields, records=rows)
        identities = [(row.created_at, row.id, None, 1) for row in rows]
        await connection.copy_records_to_table("usage_ids", records=identities)
        await connection.execute(
            """INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, epoch, first_offset, next_offset,
                                          inserted, duplicates, quarantined, held, gaps, message_count)
               VALUES ($1, 'kafka', 'main', 'usage.events', 0, 0, $2::bigint - $3::bigint, $2, $3, 0, 0, 0, 0, $4)""",
            batch_id, next_offset, len(rows), len(messages),
        )  # fmt: skip
    return messages


def _split(whole: UsageRecorded, parts: int) -> list[UsageRecorded]:
    """Return a message in several, as ingest splits one that is too large."""
    shares = [whole.deltas[part::parts] for part in range(parts)]
    return [
        msgspec.structs.replace(
            whole,
            part=part,
            parts=parts,
            deltas=share,
            providers=whole.providers if part == 0 else [],
            event_count=sum(delta.requests for delta in share),
        )
        for part, share in enumerate(shares)
    ]


async def derived(pool: Pool) -> tuple[list[Any], list[Any]]:
    """Return all summaries with hours of uses, and counters, to compare them before and after."""
    summaries = await pool.fetch(
        """SELECT subscription_id, period_type, period_start, model_id, tool_name, request_count, error_count, request_tokens,
                  response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram
           FROM usage_summaries ORDER BY 1, 2, 3, 4, 5"""
    )
    uses = await pool.fetch(
        """SELECT subscription_id, hour, api_key_id, model_id, tool_name, provider, feature_type, power_level, byok, failed, app_id, kind,
                  request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram
           FROM usage_hours ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"""
    )
    counters = await pool.fetch("SELECT id, used_requests, used_tokens FROM subscriptions ORDER BY id")
    return [tuple(row) for row in (*summaries, *uses)], [tuple(row) for row in counters]


async def take_back(pool: Pool, messages: Sequence[UsageRecorded]) -> list[UsageRecorded]:
    """Commit a batch that takes back all that `messages` of one batch announced; return the messages that announce it."""
    batch_id, original = uuid7(), messages[0].batch_id
    async with transaction(pool) as connection:
        rows = await connection.fetchval(TAKE_BACK, batch_id, original)
        await connection.execute(
            """WITH moved AS (
                   UPDATE ingest_positions SET next_offset = next_offset + $2, inserted = inserted + $2
                   WHERE partition = 0 RETURNING next_offset)
               INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, epoch, first_offset, next_offset,
                                          inserted, duplicates, quarantined, held, gaps, message_count)
               SELECT $1, 'kafka', 'main', 'usage.events', 0, 0, next_offset - $2::bigint, next_offset, $2, 0, 0, 0, 0, $3 FROM moved""",
            batch_id, rows, len(messages),
        )  # fmt: skip
    return [
        msgspec.structs.replace(message, batch_id=batch_id, deltas=[reversal(d) for d in message.deltas], providers=[])
        for message in messages
    ]


TAKE_BACK = """
    WITH taken AS (
        INSERT INTO usage_logs (created_at, id, subscription_id, api_key_id, batch_id, model_id, tool_name, provider, request_tokens,
                                response_tokens, cached_tokens, latency_ms, status_code, power_level, byok, feature_type, app_id, source,
                                request_id, quantity, corrects, corrected_at)
        SELECT created_at, gen_random_uuid(), subscription_id, api_key_id, $1, model_id, tool_name, provider, -request_tokens,
               -response_tokens, -cached_tokens, latency_ms, status_code, power_level, byok, feature_type, app_id, source,
               gen_random_uuid()::text, -1, id, created_at
        FROM usage_logs WHERE batch_id = $2
        RETURNING created_at, id), guarded AS (
        INSERT INTO usage_ids (created_at, id, generation) SELECT created_at, id, 1 FROM taken)
    SELECT count(*) FROM taken
"""
SUMS = (
    "requests", "errors", "request_tokens", "response_tokens", "cached_tokens", "tokens_returned", "latency_sum_ms", "latency_count",
)  # fmt: skip


def reversal(delta: UsageDelta) -> UsageDelta:
    """Return the delta of the rows that take back all rows of `delta`."""
    return msgspec.structs.replace(
        delta,
        **{name: -getattr(delta, name) for name in SUMS},
        latency_histogram=[-count for count in delta.latency_histogram],
        reversals=delta.requests,
    )
