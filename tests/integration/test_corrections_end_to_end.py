"""What is voided or amended leaves summaries, quotas, rated usage and credits, and every proof holds on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from shared.postgres import Pool
from tests.integration.aggregator_facts import Aggregator, used
from tests.integration.billing_facts import Customer, Desk, make_customer, make_price
from tests.integration.ingest_facts import Ingest
from tests.unit.ingest.events import amend, structured, void

AT = "2026-11-02T10:00:00Z"


@dataclass
class Pipeline:
    """All three services on one database; messages are handed on by hand."""

    ingest: Ingest
    aggregator: Aggregator
    desk: Desk
    customer: Customer
    prepaying: Customer
    heard: int = field(default=0)

    async def use(self, *values: bytes) -> None:
        """Ingest records, and let everybody hear of what was stored."""
        await self.ingest.apply_values(*values)
        await self.ingest.attribute()
        messages = self.ingest.recorded()[self.heard :]
        self.heard += len(messages)
        if messages:
            await self.aggregator.apply(*messages)
            await self.desk.deliver(*messages)

    async def rated(self, customer: Customer) -> tuple[int, Decimal]:
        """Requests and amount."""
        row = await self.desk.pool.fetchrow(
            "SELECT coalesce(sum(requests), 0)::int AS requests, coalesce(sum(amount), 0) AS amount FROM rated_usage WHERE subscription_id = $1",
            customer.subscription_id,
        )
        return row["requests"], row["amount"]


@pytest.fixture
async def pipeline(database_pool: Pool) -> AsyncIterator[Pipeline]:
    async with database_pool.acquire() as connection:
        await make_price(connection)
        customer = await make_customer(connection)
        prepaying = await make_customer(connection, billing_mode="prepaid")
        await connection.execute("SELECT add_user_credits($1, 100)", prepaying.user_id)
    yield Pipeline(Ingest(database_pool), Aggregator(database_pool), Desk(database_pool), customer, prepaying)


def event(name: str, customer: Customer, **data: Any) -> bytes:
    return structured(
        id=name,
        subject=str(customer.subscription_id),
        time=AT,
        data={"model": "gpt-4o", "request_tokens": 1_000, **data},
    )


async def test_a_corrected_log_is_what_everything_is_summed_from(pipeline: Pipeline) -> None:
    one, other = pipeline.customer, pipeline.prepaying
    await pipeline.use(event("a", one), event("b", one, status_code=500), event("c", one), event("d", other))
    before = await pipeline.rated(one)
    await pipeline.use(
        void("a"), void("late", id="void-2"), amend("b", subject=str(one.subscription_id), data={"request_tokens": 7})
    )
    await pipeline.use(event("late", one), void("a"), void("c", id="void-3"))

    assert await used(pipeline.desk.pool, one.subscription_id) == (1, 12)
    requests, amount = await pipeline.rated(one)
    assert (before[0], requests) == (3, 1)
    assert Decimal(0) < amount < before[1]
    hours = await pipeline.desk.fetch(
        "SELECT request_count, error_count, request_tokens FROM usage_summaries WHERE subscription_id = $1 AND period_type = 'month'",
        one.subscription_id,
    )
    assert sum(row["request_count"] for row in hours) == 1
    assert sum(row["error_count"] for row in hours) == 0
    assert sum(row["request_tokens"] for row in hours) == 7
    assert await pipeline.desk.differing() == []


async def test_voided_prepaid_usage_gives_its_credits_back(pipeline: Pipeline) -> None:
    balance = "SELECT balance FROM user_credits WHERE user_id = $1"
    await pipeline.use(event("a", pipeline.prepaying))
    await pipeline.desk.settling.settle_all()
    assert await pipeline.desk.value(balance, pipeline.prepaying.user_id) < 100

    await pipeline.use(void("a"))
    await pipeline.desk.settling.settle_all()

    assert await pipeline.desk.value(balance, pipeline.prepaying.user_id) == 100
    assert await pipeline.desk.differing() == []
