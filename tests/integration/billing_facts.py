"""Facts for billing's tests: customers, prices, and usage as ingest and the aggregator would have written it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from aiokafka import ConsumerRecord

from services.billing.credits.credits import Pending
from services.billing.credits.settlement import Settling
from services.billing.handlers import RateRecorded
from services.billing.invoices.closing import Closing, close_period
from services.billing.rating.prices import Prices
from services.billing.reconciliation import reconcile
from services.ingest.deltas import aggregate
from services.ingest.rows import UsageRow
from shared.clock import FixedClock
from shared.consumer import Slice
from shared.contracts import LATENCY_BUCKET_COUNT, USAGE_RECORDED, Origin, UsageRecorded, encode
from shared.ids import uuid7
from shared.outbox import Outbox
from shared.period import Period
from shared.positions import Positions
from shared.postgres import Connection, Pool, transaction
from tests.integration.roles import BILLING, with_role

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
    connection: Connection, *, billing_mode: str = "postpaid", currency: str = "USD", plan_id: str = "metered"
) -> Customer:
    """Store a user with an active subscription to a plan, without quotas and without a fee of its own."""
    user_id, subscription_id = uuid7(), uuid7()
    await connection.execute(
        "INSERT INTO plans (id, name, amount, currency, interval) VALUES ('metered', 'Metered', 0, 'USD', 'month') ON CONFLICT DO NOTHING"
    )
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
    plan_id: str = "metered",
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


async def make_price(
    connection: Connection,
    *,
    model: str | None = "gpt-4o",
    tool: str | None = None,
    valid_from: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    valid_to: datetime | None = None,
    currency: str = "USD",
    per_1k: tuple[str, str, str] = ("0.0025", "0.00125", "0.01"),
    per_request: str = "0",
) -> UUID:
    """Store a price version; `per_1k` is input, cached input, output."""
    price_id = uuid7()
    if model:
        await connection.execute(
            "INSERT INTO models (id, name, provider) VALUES ($1, $1, 'openai') ON CONFLICT DO NOTHING", model
        )
    await connection.execute(
        """INSERT INTO model_prices (id, model_id, tool_name, valid_from, valid_to, currency, input_price_per_1k,
                                     cached_input_price_per_1k, output_price_per_1k, price_per_request)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
        price_id, model, tool, valid_from, valid_to, currency, *map(Decimal, per_1k), Decimal(per_request),
    )  # fmt: skip
    return price_id


async def ingest(connection: Connection, rows: Sequence[UsageRow]) -> UsageRecorded:
    """Store a batch as ingest does, with its position, and its summaries as the aggregator does. Returns what it announces."""
    batch_id = uuid7()
    rows = [row._replace(batch_id=batch_id) for row in rows]
    for month in {row.created_at.strftime("%Y-%m-01Z") for row in rows}:
        await connection.execute("SELECT ensure_usage_partition($1::text::timestamptz)", month)
    await connection.copy_records_to_table("usage_logs", columns=UsageRow._fields, records=rows)
    identities = [(row.created_at, row.id, None, 1) for row in rows]
    await connection.copy_records_to_table("usage_ids", records=identities)
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
    await connection.execute(
        "INSERT INTO aggregator_inbox (batch_id, part, event_count, by_app) VALUES ($1, 0, $2, true)",
        batch_id,
        len(rows),
    )
    await summarise(connection)
    deltas, providers = aggregate(rows)
    return UsageRecorded(batch_id, 0, 1, SOURCE, NOON + timedelta(hours=1), len(rows), deltas, providers, by_app=True)


async def summarise(connection: Connection) -> None:
    """Derive summaries and counters from the log."""
    await connection.execute("DELETE FROM usage_summaries; DELETE FROM usage_hours")
    await connection.execute(
        """INSERT INTO usage_hours (subscription_id, hour, api_key_id, kind, byok, failed, model_id, tool_name, provider, feature_type,
               power_level, app_id, request_count, request_tokens, response_tokens, cached_tokens, latency_sum_ms, latency_count, latency_histogram)
           SELECT subscription_id, date_trunc('hour', created_at, 'UTC'), coalesce(api_key_id, '00000000-0000-0000-0000-000000000000'),
               usage_kind(coalesce(model_id, ''), coalesce(tool_name, ''), coalesce(provider, ''), coalesce(feature_type, ''), power_level, byok,
                          status_code >= 400, coalesce(app_id, '')), byok, status_code >= 400, coalesce(model_id, ''), coalesce(tool_name, ''),
               coalesce(provider, ''), coalesce(feature_type, ''), power_level, coalesce(app_id, ''), count(*), sum(request_tokens),
               sum(response_tokens), sum(cached_tokens), 0, 0, array_fill(0, ARRAY[$1::int])
           FROM usage_logs GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12""",
        LATENCY_BUCKET_COUNT,
    )
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


@dataclass(slots=True)
class Desk:
    """Billing at work on one database, without Kafka: messages are delivered by hand, time stands where it is put.

    What billing does has the rights of its role; `pool` is the owner's, for what others do.
    """

    pool: Pool
    clock: FixedClock = field(default_factory=lambda: FixedClock(datetime(2026, 11, 3, tzinfo=UTC)))
    billing: Pool = field(init=False)
    settling: Settling = field(init=False)
    prices: Prices = field(init=False)
    rate: RateRecorded = field(init=False)
    next_offset: int = 0

    def __post_init__(self) -> None:
        self.billing = with_role(self.pool, BILLING)
        self.settling = Settling(
            self.billing,
            self.clock,
            Outbox("billing_outbox"),
            Pending({"USD": Decimal(10)}, urgent_share=Decimal("0.8")),
        )
        self.prices = Prices(Decimal(0))
        self.rate = RateRecorded(CLUSTER, self.clock, self.prices, self.settling)

    async def use(self, *rows: UsageRow) -> UsageRecorded:
        """Ingest usage as one batch, and deliver what ingest announces."""
        async with self.pool.acquire() as connection:
            message = await ingest(connection, rows)
        await self.deliver(message)
        return message

    async def deliver(self, *messages: UsageRecorded) -> None:
        """Hand messages to billing as one slice, as the consumer does."""
        positions = Positions("billing_positions", cluster=CLUSTER)
        async with transaction(self.billing) as connection:
            await positions.create(connection, USAGE_RECORDED, 0, 0)
            position = await positions.lock(connection, USAGE_RECORDED, 0)
            assert position is not None
            records = [record(position.next_offset + i, message) for i, message in enumerate(messages)]
            after_commit = await self.rate(connection, Slice(position, records))
        await after_commit()

    async def close(self, period: Period = OCTOBER, **options: Any) -> Closing:
        """Close a period without grace, at the desk's time."""
        return await close_period(self.billing, period, clock=self.clock, grace=timedelta(0), **options)

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Ask the database."""
        return await self.pool.fetch(sql, *arguments)  # type: ignore[no-any-return]

    async def value(self, sql: str, *arguments: Any) -> Any:
        """Ask the database for one value."""
        return await self.pool.fetchval(sql, *arguments)

    async def differing(self) -> list[str]:
        """Reconcile; return the names of the checks that do not hold."""
        async with self.billing.acquire() as connection:
            return [check.name for check in await reconcile(connection) if not check.holds]


def record(offset: int, message: UsageRecorded) -> ConsumerRecord[bytes, bytes]:
    """Return a message as it is fetched from usage.recorded."""
    value = encode(message)
    return ConsumerRecord(USAGE_RECORDED, 0, offset, 0, 0, None, value, None, -1, len(value), ())
