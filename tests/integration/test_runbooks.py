"""Runbooks are walked: a fault is planted, the page's own commands show it, and following the page brings the books back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from services.ingest.acceptance import Limits
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.billing_facts import Customer, Desk, make_customer, make_price, usage
from tests.integration.ingest_facts import Ingest
from tests.integration.test_howto_finance import Reader
from tests.integration.test_howto_recovery import code, psql
from tests.unit.ingest.events import structured

RUNBOOKS: Final = "../runbooks/"
HELD: Final = f"{RUNBOOKS}held-events-old.md"
QUARANTINE: Final = f"{RUNBOOKS}quarantine-grows.md"
BOOKS: Final = f"{RUNBOOKS}reconciliation-failed.md"
INVOICES: Final = f"{RUNBOOKS}invoice-run-failed.md"


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(capsys)


@pytest.fixture
async def desk(database_pool: Pool, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A database that the commands find; no Kafka answers."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TALLYSTICK_LOCAL_DIR", str(tmp_path))
    await make_price(database_pool)
    return Desk(database_pool)


@pytest.fixture
async def customers(desk: Desk) -> list[Customer]:
    """Two who have used something in October."""
    found = [await make_customer(desk.pool) for _ in range(2)]
    await desk.use(*(usage(customer.subscription_id, request_tokens=1_000) for customer in found))
    return found


def event(number: int, subject: object = ..., **data: object) -> bytes:
    """Return an event, of the hour in which the ingest of tests lives."""
    return structured(id=f"event-{number}", subject=subject, data=data)


async def change_by_hand(pool: Pool, statement: str, *arguments: object) -> None:
    """Do what somebody does who is above all rules of the tables."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement, *arguments)


async def test_held_events_are_seen_and_attributed_or_given_up(desk: Desk, read: Reader) -> None:
    lost, wrong, hash_ = str(uuid7()), str(uuid7()), "5f" * 32
    customer, ingest = await make_customer(desk.pool), Ingest(desk.pool)
    await ingest.apply_values(event(1, lost), event(2, wrong), event(3, api_key_hash=hash_))
    said = await read(HELD, "held list")
    assert "3 events held" in said
    assert all(named in said for named in (lost, wrong, hash_))
    [of_nobody] = [line.split()[0] for line in said.splitlines() if wrong in line and "held" in line]
    assert "/gateways/eu-1" in await read(HELD, "held show", instead={"ID": of_nobody})

    names = {"ID": lost, "USER": str(customer.user_id), "MODEL": "gpt-4o"}
    await read(HELD, "subscription create", instead=names)
    assert "already" in await read(HELD, "subscription create", code=2, instead=names)
    async with desk.pool.acquire() as connection:
        script = code(HELD, "sql")
        assert await psql(connection, script, hash=hash_, subscription=str(customer.subscription_id)) == ["INSERT 0 1"]
    await read(HELD, "held expire", instead={"ID": of_nobody})
    await ingest.attribute()
    assert {str(row["subscription_id"]) for row in await ingest.stored()} == {lost, str(customer.subscription_id)}
    assert await read(HELD, "held list") == "no event is held\n"


async def test_quarantine_is_seen_replayed_and_discarded(desk: Desk, read: Reader) -> None:
    customer, ingest = await make_customer(desk.pool), Ingest(desk.pool, limits=Limits(metadata_keys=1))
    # The command that replays has no other clock than that of today.
    data, now = {"metadata": {"a": 1, "b": 2}}, datetime.now(UTC).isoformat()
    await ingest.apply_values(structured(subject=str(customer.subscription_id), time=now, data=data), b"{")
    said = await read(QUARANTINE, "quarantine list")
    assert "metadata_too_large 1" in said
    assert "not_json 1" in said
    [wide] = [line.split()[0] for line in said.splitlines() if "  metadata_too_large" in line]
    assert "/gateways/eu-1" in await read(QUARANTINE, "quarantine show", instead={"ID": wide})
    assert "replayed 1 record: 1 stored" in await read(QUARANTINE, "quarantine replay")
    assert "discarded 1 record" in await read(QUARANTINE, "quarantine discard")
    assert await read(QUARANTINE, "quarantine list") == "nothing is in quarantine\n"
    assert len(await ingest.stored()) == 1


async def test_books_that_differ_are_seen_and_computed_anew(
    desk: Desk, customers: list[Customer], read: Reader
) -> None:
    await desk.pool.execute("UPDATE usage_summaries SET request_tokens = request_tokens + 7 WHERE period_type = 'day'")
    await read(BOOKS, "reconcile", code=1)
    assert await desk.differing() == ["hours = days: request tokens"]
    await read(BOOKS, "verify", code=1)
    await read(BOOKS, "rebuild")
    assert await desk.differing() == []
    await read(BOOKS, "reconcile")
    await desk.pool.execute("UPDATE usage_totals SET request_count = request_count + 1 WHERE period_type = 'month'")
    assert await desk.differing() == ["summaries = totals: requests"]
    async with desk.pool.acquire() as connection:
        await psql(connection, code(BOOKS, "sql"))
    assert await desk.differing() == []
    await read(BOOKS, "announce")
    assert "done" in await read(BOOKS, "jobs run")


async def test_a_failed_invoice_run_says_why_and_is_made_up_for(
    desk: Desk, customers: list[Customer], read: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_BILLING_ENTITY", "nobody")
    assert "there is no legal entity 'nobody'" in await read(INVOICES, "invoice close", code=2)
    monkeypatch.delenv("TALLYSTICK_BILLING_ENTITY")
    changed: UUID = customers[0].subscription_id
    by_one = "UPDATE rated_usage SET amount = amount + $2::int WHERE subscription_id = $1"
    await change_by_hand(desk.pool, by_one, changed, 1)
    said = await read(INVOICES, "invoice close", code=1)
    assert f"failed: user {customers[0].user_id}" in said
    assert "but its quantities give" in said
    assert [row["user_id"] for row in await desk.fetch("SELECT user_id FROM invoices WHERE number IS NOT NULL")] == [
        customers[1].user_id
    ]
    await change_by_hand(desk.pool, by_one, changed, -1)
    assert "1 invoice issued for 2026-10" in await read(INVOICES, "invoice close")
    assert await desk.differing() == []
