"""The law of provenance: whatever a month held, every line and every debit of it is explained by its events, to the last digit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.billing.provenance import explain_debit, explain_line
from services.billing.rating.price_file import NewPrice
from services.billing.reprice import apply
from services.ingest.corrections.decisions import CORRECTION_COLUMNS
from services.ingest.deltas import aggregate, corrected
from services.ingest.rows import UsageRow
from shared.contracts import UsageRecorded
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool
from tests.integration.billing_facts import (
    CLUSTER,
    NOON,
    NOVEMBER,
    OCTOBER,
    SOURCE,
    Customer,
    Desk,
    make_customer,
    make_price,
    usage,
)


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    return Desk(database_pool)


@dataclass(frozen=True)
class Use:
    """Usage of one of two models by one of two customers, some hours after noon."""

    customer: int
    model: int
    hour: int
    tokens: tuple[int, int, int]
    quality: tuple[str, bool, int]


uses = st.builds(
    Use,
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 3),
    st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 100)),
    st.tuples(
        st.sampled_from(["eco", "balanced", "precision"]), st.booleans(), st.sampled_from([200, 200, 200, 429, 503])
    ),
)
batches = st.lists(uses, min_size=1, max_size=6)
voids = st.tuples(st.just("void"), st.integers(0, 50))
reprices = st.tuples(st.just("reprice"), st.integers(0, 1), st.integers(1, 9))
months = st.lists(st.one_of(batches, batches, voids, reprices), min_size=1, max_size=7)


def row(use: Use, customers: list[Customer], models: list[str]) -> UsageRow:
    asked, answered, cached_percent = use.tokens
    power_level, byok, status = use.quality
    return usage(
        customers[use.customer].subscription_id, at=NOON + timedelta(hours=use.hour, minutes=use.tokens[2] % 60),
        model=models[use.model], request_tokens=asked, cached_tokens=asked * cached_percent // 100, response_tokens=answered,
        power_level=power_level, byok=byok, status_code=status,
    )  # fmt: skip


async def take_back(desk: Desk, original: UsageRow) -> None:
    """Store the row that takes another back, as ingest does, and deliver what it announces."""
    batch_id = uuid7()
    negated = {name: -getattr(original, name) for name in ("request_tokens", "response_tokens", "cached_tokens")}
    row = original._replace(id=uuid7(), batch_id=batch_id, **negated)
    async with desk.pool.acquire() as connection:
        record = (*row, -1, original.id, NOON + timedelta(days=1))
        await connection.copy_records_to_table("usage_logs", columns=CORRECTION_COLUMNS, records=[record])
        await connection.execute(
            """INSERT INTO usage_batches (batch_id, kind, cluster, topic, partition, inserted, duplicates, quarantined, held, gaps, message_count)
               VALUES ($1, 'replay', $2, $3, 0, 1, 0, 0, 0, 0, 1)""",
            batch_id, CLUSTER, SOURCE.topic,
        )  # fmt: skip
    deltas, observed = corrected(aggregate([]), [], [original])
    await desk.deliver(UsageRecorded(batch_id, 0, 1, SOURCE, NOON + timedelta(days=1), 1, deltas, observed))


async def play(desk: Desk, customers: list[Customer], models: list[str], history: list[Any]) -> None:
    """Use, take back and reprice, in the order of a history."""
    sent: list[UsageRow] = []
    for step in history:
        match step:
            case ("void", index) if sent:
                await take_back(desk, sent.pop(index % len(sent)))
            case ("reprice", model, price):
                new = NewPrice("model", models[model], "USD", Decimal(price), Decimal(price))
                async with desk.pool.acquire() as connection:
                    await apply(connection, Period(NOON, NOON + timedelta(hours=2)), [new], why="law", by="finance")
            case list():
                rows = [row(use, customers, models) for use in step]
                await desk.use(*rows)
                sent += rows
        await desk.settling.settle_all()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(months, months)
async def test_law_every_line_and_every_debit_is_explained(desk: Desk, in_time: list[Any], late: list[Any]) -> None:
    """One customer is invoiced, one prepays; what happens after October is closed is adjusted with November."""
    desk.clock.at = datetime(2026, 11, 3, tzinfo=UTC)
    customers = [await make_customer(desk.pool, billing_mode=mode) for mode in ("postpaid", "prepaid")]
    await desk.pool.execute("SELECT add_user_credits($1, 1000)", customers[1].user_id)
    models = [f"model-{uuid7()}" for _ in range(2)]  # the database is the same for every month
    for model in models:
        await make_price(desk.pool, model=model, per_request="0.001")

    await play(desk, customers, models, in_time)
    await desk.close(OCTOBER, only_user=customers[0].user_id)
    await play(desk, customers, models, late)
    desk.clock.at = datetime(2026, 12, 3, tzinfo=UTC)
    await desk.close(NOVEMBER, only_user=customers[0].user_id)

    async with desk.pool.acquire() as connection:
        lines = await connection.fetch(
            """SELECT l.id, l.exact_amount FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id
               WHERE i.user_id = $1 AND l.component IS NOT NULL""",
            customers[0].user_id,
        )
        debits = await connection.fetch(
            "SELECT id, rated_amount FROM credit_settlements WHERE user_id = $1", customers[1].user_id
        )
        for line in lines:
            explained = await explain_line(connection, line["id"])
            assert explained.problems == [], explained.title
            assert explained.recomputed == line["exact_amount"]
        for debit in debits:
            explained = await explain_debit(connection, debit["id"])
            assert explained.problems == [], explained.title
            assert explained.recomputed == debit["rated_amount"]
        used = await connection.fetchval(
            "SELECT coalesce(sum(amount), 0) FROM rated_usage WHERE user_id = $1", customers[0].user_id
        )
        assert sum((line["exact_amount"] for line in lines), Decimal(0)) == used
