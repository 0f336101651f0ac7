"""Explaining what was corrected: repriced usage and what is taken back lead to the same events, and sum to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.billing.provenance import explain_line, explain_summary, parse_summary
from services.billing.provenance.explain import NothingToExplain
from services.billing.rating.price_file import NewPrice
from services.billing.reprice import apply
from shared.postgres import Pool
from tests.integration.billing_facts import NOON, NOVEMBER, OCTOBER, Desk, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool)
    return Desk(database_pool)


async def reprice(desk: Desk, per_1k: str) -> None:
    new = NewPrice("model", "gpt-4o", "USD", Decimal(per_1k), Decimal(per_1k))
    async with desk.pool.acquire() as connection:
        await apply(connection, OCTOBER, [new], why="wrong", by="finance")


async def test_every_adjustment_of_a_reprice_is_explained_by_the_events_of_the_past(desk: Desk) -> None:
    """Twice repriced, with usage of every sort: each adjustment leads (by rated_usage_sources) to the events that it takes back or
    charges anew."""
    customer = await make_customer(desk.pool)
    sub = customer.subscription_id
    for hour in range(2):
        at = NOON + timedelta(hours=hour)
        await desk.use(
            usage(sub, at=at, request_tokens=1001, cached_tokens=17, response_tokens=33),
            usage(sub, at=at, request_tokens=77, power_level="precision"),
            usage(sub, at=at, request_tokens=500, status_code=429),
        )
        await desk.use(usage(sub, at=at, request_tokens=9))
    await desk.close()
    await reprice(desk, "0.003")
    await desk.use(usage(sub, request_tokens=11))  # late, by the first correction
    await reprice(desk, "0.007")
    desk.clock.at = datetime(2026, 12, 3, tzinfo=UTC)
    await desk.close(NOVEMBER)

    async with desk.pool.acquire() as connection:
        lines = await connection.fetch("SELECT l.* FROM invoice_lines l WHERE component IS NOT NULL")
        explained = [(line, await explain_line(connection, line["id"])) for line in lines]
    adjusted = [(line, found) for line, found in explained if line["kind"] == "adjustment"]
    assert {line["amount"] > 0 for line, _ in adjusted} == {True, False}
    for line, found in explained:
        assert found.holds, (line["description"], found.problems)
        assert found.recomputed == line["exact_amount"]
    for line, found in adjusted:
        assert sum(event["sign"] for event in found.events) == line["event_count"]


async def test_a_summary_is_explained_by_the_log(desk: Desk) -> None:
    sub = (await make_customer(desk.pool)).subscription_id
    await desk.use(
        usage(sub, request_tokens=5, latency_ms=None), usage(sub, request_tokens=6, at=NOON + timedelta(hours=3))
    )
    async with desk.pool.acquire() as connection:
        for text, requests in (
            (f"{sub}/hour/2026-10-14T12", 1),
            (f"{sub}/day/2026-10-14/gpt-4o", 2),
            (f"{sub}/month/2026-10", 2),
        ):
            name = parse_summary(text)
            assert name is not None
            found = await explain_summary(connection, name)
            assert found.holds, found.problems
            assert (found.stored["request_count"], len(found.events)) == (requests, requests)
            assert found.origins[0]["topic"] == "usage.events"


async def test_a_summary_that_was_changed_is_said_loudly(desk: Desk) -> None:
    sub = (await make_customer(desk.pool)).subscription_id
    await desk.use(usage(sub, request_tokens=5))
    await desk.pool.execute("UPDATE usage_summaries SET request_tokens = 7 WHERE period_type = 'day'")
    name = parse_summary(f"{sub}/day/2026-10-14")
    assert name is not None
    async with desk.pool.acquire() as connection:
        found = await explain_summary(connection, name)
    assert found.problems == ["request tokens: 7 stored, 5 by the events"]


@pytest.mark.parametrize("text", ["019a2f6e-0000-7000-8000-000000000001/day/2026-13-01", "someone/day/2026-11-01"])
def test_a_summary_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(NothingToExplain, match="names no summary"):
        parse_summary(text)


def test_what_is_not_of_the_form_of_a_summary_is_none() -> None:
    assert parse_summary("INV-2026-000001/3") is None


async def test_a_summary_of_nothing_is_not_explained(desk: Desk) -> None:
    sub = (await make_customer(desk.pool)).subscription_id
    name = parse_summary(f"{sub}/day/2026-10-14/gpt-4o")
    assert name is not None
    async with desk.pool.acquire() as connection:
        with pytest.raises(NothingToExplain, match="there is no summary"):
            await explain_summary(connection, name)
