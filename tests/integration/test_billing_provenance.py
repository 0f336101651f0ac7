"""Explaining: from a line or a debit down to its events, whose recomputed sum is exactly what was billed – or it says not."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from services.billing.provenance import explain_debit, explain_line
from services.billing.provenance.explain import NothingToExplain
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.billing_facts import NOON, Desk, ingest, make_customer, make_price, usage


@pytest.fixture
async def desk(database_pool: Pool) -> Desk:
    await make_price(database_pool)
    return Desk(database_pool)


async def test_every_line_of_an_invoice_is_explained_by_its_events(desk: Desk) -> None:
    customer, neighbour = await make_customer(desk.pool), await make_customer(desk.pool)
    sub = customer.subscription_id
    for hour in range(3):
        at = NOON + timedelta(hours=hour)
        await desk.use(
            usage(sub, at=at, request_tokens=1001, cached_tokens=17, response_tokens=33),
            usage(sub, at=at, request_tokens=500, status_code=429),
            usage(sub, at=at, request_tokens=77, power_level="precision"),
            usage(neighbour.subscription_id, at=at, request_tokens=1001),
        )
    await desk.close()
    async with desk.pool.acquire() as connection:
        lines = await connection.fetch(
            "SELECT l.* FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id WHERE i.user_id = $1",
            customer.user_id,
        )
        explained = {line["id"]: await explain_line(connection, line["id"]) for line in lines}
    assert len(lines) == 4
    for line in lines:
        found = explained[line["id"]]
        assert found.holds, found.problems
        assert found.recomputed == found.stated == line["exact_amount"]
        assert found.event_count == line["event_count"] == len(found.events)
        assert {event["subscription_id"] for event in found.events} == {sub}
        assert found.origins[0]["topic"] == "usage.events"
        assert found.prices[0].price.subject == "gpt-4o"


@pytest.mark.parametrize("slices", [1, 2])
async def test_a_batch_that_was_announced_in_parts_is_counted_once(desk: Desk, slices: int) -> None:
    """Both parts have usage that one price rates alike: two providers of one model."""
    sub = (await make_customer(desk.pool)).subscription_id
    async with desk.pool.acquire() as connection:
        message = await ingest(
            connection, [usage(sub, request_tokens=10, provider=name) for name in ("openai", "azure", "azure")]
        )
    await desk.pool.execute("UPDATE usage_batches SET message_count = 2")
    parts = [
        replace(message, part=n, parts=2, deltas=[delta], event_count=delta.requests)
        for n, delta in enumerate(message.deltas)
    ]
    assert len(parts) == 2
    if slices == 1:
        await desk.deliver(*parts)
    else:
        await desk.deliver(parts[0])
        await desk.deliver(parts[1])
    await desk.close()
    async with desk.pool.acquire() as connection:
        line_id = await connection.fetchval("SELECT id FROM invoice_lines WHERE component = 'input'")
        found = await explain_line(connection, line_id)
    assert found.problems == []
    assert (found.event_count, len(found.events)) == (3, 3)


async def test_a_debit_is_explained_by_its_events(desk: Desk) -> None:
    customer = await make_customer(desk.pool, billing_mode="prepaid")
    await desk.pool.execute("SELECT add_user_credits($1, 100)", customer.user_id)
    sub = customer.subscription_id
    await desk.use(usage(sub, request_tokens=1000), usage(sub, request_tokens=7, power_level="eco"))
    await desk.settling.settle_all()
    await desk.use(usage(sub, request_tokens=500))
    await desk.settling.settle_all()
    ids = [row["id"] for row in await desk.fetch("SELECT id FROM credit_settlements ORDER BY window_start")]
    async with desk.pool.acquire() as connection:
        first, second = [await explain_debit(connection, id_) for id_ in ids]
    assert first.holds, first.problems
    assert second.holds, second.problems
    assert first.recomputed == Decimal("0.0025") + Decimal("0.00001225")
    assert (first.event_count, second.event_count) == (2, 1)
    assert len(first.prices) == 2


async def test_an_event_that_vanished_is_said_loudly(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(
        usage(customer.subscription_id, request_tokens=10), usage(customer.subscription_id, request_tokens=20)
    )
    await desk.close()
    await desk.pool.execute("DELETE FROM usage_logs WHERE request_tokens = 20")
    async with desk.pool.acquire() as connection:
        found = await explain_line(connection, await connection.fetchval("SELECT id FROM invoice_lines"))
    assert not found.holds
    assert found.problems == [
        "the events give 0.000025, not 0.000075",
        "2 events are stated, 2 were rated, 1 are in the log",
    ]


async def test_rated_usage_that_was_changed_is_said_loudly(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(usage(customer.subscription_id, request_tokens=10))
    await desk.close()
    await desk.pool.execute("ALTER TABLE rated_usage DISABLE TRIGGER USER; UPDATE rated_usage SET request_tokens = 11")
    async with desk.pool.acquire() as connection:
        found = await explain_line(connection, await connection.fetchval("SELECT id FROM invoice_lines"))
    assert found.problems == ["the rated usage behind the line is not what it was when the line was made"]


async def test_only_so_many_events_are_listed_but_all_are_counted(desk: Desk) -> None:
    customer = await make_customer(desk.pool)
    await desk.use(*(usage(customer.subscription_id, request_tokens=10) for _ in range(5)))
    await desk.close()
    async with desk.pool.acquire() as connection:
        line_id = await connection.fetchval("SELECT id FROM invoice_lines")
        found = await explain_line(connection, line_id, events_shown=2)
    assert (len(found.events), found.event_count, found.holds) == (2, 5, True)


async def test_what_does_not_exist_or_bills_no_usage_is_not_explained(desk: Desk) -> None:
    await make_customer(desk.pool, plan_id="basic")
    await desk.pool.execute("UPDATE subscriptions SET created_at = '2026-09-20Z'")
    await desk.close()
    async with desk.pool.acquire() as connection:
        fee = await connection.fetchval("SELECT id FROM invoice_lines WHERE kind = 'fee'")
        for unknown in (uuid7(), fee):
            with pytest.raises(NothingToExplain):
                await explain_line(connection, unknown)
        with pytest.raises(NothingToExplain):
            await explain_debit(connection, uuid7())
