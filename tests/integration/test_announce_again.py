"""Batches that a reader has not heard of are announced as they were, from what is in the log."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from services.cli import main
from services.ingest.announcing import announce_again, find_unheard
from shared.contracts import UsageRecorded, decode_recorded
from shared.postgres import Pool, transaction
from tests.integration.aggregator_facts import Aggregator, make_subscription, used
from tests.integration.billing_facts import usage
from tests.integration.rebuild_facts import store_batch, take_back
from tests.unit.aggregator.facts import NOON

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
async def owner(database_pool: Pool) -> UUID:
    return await make_subscription(database_pool)


async def billed(pool: Pool, *messages: UsageRecorded) -> None:
    """Let billing have heard of messages."""
    run = UUID(int=1)
    await pool.execute("INSERT INTO rating_runs (id, kind) VALUES ($1, 'unrated') ON CONFLICT DO NOTHING", run)
    await pool.executemany(
        "INSERT INTO billing_inbox VALUES ($1, $2, $3, 1)", [(m.batch_id, m.part, run) for m in messages]
    )


async def announced(pool: Pool) -> list[UsageRecorded]:
    return [decode_recorded(row["value"]) for row in await pool.fetch("SELECT value FROM ingest_outbox ORDER BY id")]


async def test_a_batch_is_announced_as_it_was(database_pool: Pool, owner: UUID) -> None:
    rows = [
        usage(owner, at=NOON, request_tokens=n, latency_ms=70 * n, status_code=400 if n == 3 else 200) for n in range(5)
    ]
    [heard] = await store_batch(database_pool, [usage(owner, at=NOON)])
    [missed] = await store_batch(database_pool, rows)
    [reversal] = await take_back(database_pool, [missed])
    await billed(database_pool, heard)
    await Aggregator(database_pool).apply(heard)

    async with transaction(database_pool) as connection:
        unheard = await find_unheard(connection, LATER)
        result = await announce_again(connection, unheard, actor="ada")

    assert (result.announced, result.left_alone) == ([missed.batch_id, reversal.batch_id], [])
    again, again_reversal = await announced(database_pool)
    origin = msgspec.structs.replace(missed.origin, first_offset=1, next_offset=6)
    assert again == msgspec.structs.replace(missed, recorded_at=again.recorded_at, origin=origin)
    assert sorted((d.requests, d.reversals, d.errors) for d in again_reversal.deltas) == [(-4, 4, 0), (-1, 1, -1)]
    assert again_reversal.event_count == 5
    await Aggregator(database_pool).apply(again_reversal, again)
    assert await used(database_pool, owner) == (1, 0)
    trail = await database_pool.fetch(
        "SELECT actor, resource_id FROM audit_logs WHERE action = 'usage_batch.announced_again'"
    )
    assert {tuple(row) for row in trail} == {("ada", str(missed.batch_id)), ("ada", str(reversal.batch_id))}


async def test_a_batch_that_was_heard_in_part_is_left_alone(database_pool: Pool, owner: UUID) -> None:
    parts = await store_batch(database_pool, [usage(owner, at=NOON, model=m) for m in ("a", "b")], parts=2)
    await Aggregator(database_pool).apply(parts[0])
    async with transaction(database_pool) as connection:
        [batch] = await find_unheard(connection, LATER)
        result = await announce_again(connection, [batch], actor="ada")
    assert (batch.aggregated, batch.rated, batch.heard_in_part) == (1, 0, True)
    assert (result.announced, result.left_alone) == ([], [parts[0].batch_id])


async def test_batches_whose_messages_the_inbox_forgot_were_heard_of(database_pool: Pool, owner: UUID) -> None:
    [message] = await store_batch(database_pool, [usage(owner, at=NOON)])
    await billed(database_pool, message)
    await database_pool.execute("UPDATE aggregator_inbox_watermark SET pruned_before = $1", LATER)
    async with transaction(database_pool) as connection:
        assert await find_unheard(connection, LATER) == []


async def test_the_command_shows_announces_and_says_what_remains(
    database: str, database_pool: Pool, owner: UUID, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)

    async def run(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main.run, ["announce", *arguments])
        return code, capsys.readouterr().out

    assert await run() == (0, "every batch older than 10 minutes was heard of\n")
    [message] = await store_batch(database_pool, [usage(owner, at=NOON)])
    assert (await run())[0] == 0, "it may be on its way"
    code, said = await run("--minutes", "0")
    assert (code, "1 row, 1 message: aggregator heard 0, billing 0" in said) == (1, True)
    assert (await run("--minutes", "0", "--apply"))[0] == 2, "nobody can answer here"
    code, said = await run("--minutes", "0", "--apply", "--yes", "--by", "ada", "--json")
    assert (code, json.loads(said)["announced"]) == (0, [str(message.batch_id)])
    assert [m.batch_id for m in await announced(database_pool)] == [message.batch_id]
