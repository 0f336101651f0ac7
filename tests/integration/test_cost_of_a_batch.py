"""What a batch costs, counted and not timed: statements, calls and WAL for an event. Each limit fails on a planted waste."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg.connection
import pytest

import services.ingest.store
import services.ingest.sweeping
from services.ingest.compiled import Compiled
from services.ingest.identities import Guard
from shared.ids import event_key
from shared.postgres import Connection, Pool, transaction
from shared.slices import Slice
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest
from tests.unit.ingest.events import record, structured

STATEMENTS = 11
"""Round trips of one batch of new events: BEGIN, position, generation, a savepoint around two COPYs, outbox, batch, position, COMMIT."""
CALLS_AN_EVENT = 30
"""Calls of functions, Python's and C's, that one more event in a batch brings with it."""
WAL_BYTES_AN_EVENT = 580
"""Of the log, its two indexes, and the identity with its index."""
FEW, MANY = 500, 1_500


@dataclass(frozen=True)
class Cost:
    """Of a batch, and of one more event in it."""

    statements: int
    calls_an_event: float
    wal_bytes_an_event: float

    def excess(self) -> list[str]:
        """Return what is beyond its limit."""
        found = {
            "statements": (self.statements, STATEMENTS),
            "calls": (self.calls_an_event, CALLS_AN_EVENT),
            "WAL": (self.wal_bytes_an_event, WAL_BYTES_AN_EVENT),
        }
        return [f"{name}: {cost} > {limit}" for name, (cost, limit) in found.items() if cost > limit]


@contextmanager
def counting_statements() -> Iterator[list[str]]:
    """Note every round trip to Postgres of this process."""
    sent: list[str] = []
    kind = asyncpg.connection.Connection
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_execute", "_copy_in", "execute"):
            original = getattr(kind, name)

            async def counted(
                self: Any, query: str, *given: Any, _original: Any = original, _name: str = name, **options: Any
            ) -> Any:
                if _name != "execute" or not given:  # with arguments, it comes by `_execute`
                    sent.append(query)
                return await _original(self, query, *given, **options)

            patch.setattr(kind, name, counted)
        yield sent


@contextmanager
def counting_calls() -> Iterator[list[int]]:
    calls = [0]

    def note(_frame: Any, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            calls[0] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def wal_bytes(connection: Connection) -> int:
    """Return the WAL that this session has written so far, whoever else writes."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return int(await connection.fetchval("SELECT wal_bytes FROM pg_stat_get_backend_wal(pg_backend_pid())"))


async def apply(ingest: Ingest, connection: Connection, subject: str, numbers: range) -> tuple[int, int, int]:
    """Apply a batch of new events; return its statements, calls and bytes of WAL."""
    data = {
        "provider": "openai",
        "latency_ms": 900,
        "session_id": "s-1",
        "end_user": "u-1",
        "metadata": {"region": "eu"},
    }
    records = [record(structured(id=f"cost-{n}", subject=subject, data=data), offset=n) for n in numbers]
    before = await wal_bytes(connection)
    with counting_statements() as statements, counting_calls() as calls:
        async with connection.transaction():
            position = await ingest.positions.lock(connection, "usage.events", 0)
            assert position is not None
            after_commit = await ingest.batch(connection, Slice(position, records))
    wal = await wal_bytes(connection) - before
    await after_commit()
    await ingest.publishing.finish()
    return len(statements), calls[0], wal


async def cost(pool: Pool, compiled: Compiled = Compiled.OFF) -> Cost:
    """Return what a batch costs once everything that is remembered is remembered."""
    ingest, subject = Ingest(pool, compiled=compiled), str(await make_subscription(pool))
    async with transaction(pool) as connection:
        await ingest.positions.create(connection, "usage.events", 0, 0)
    async with pool.acquire() as connection:
        await apply(ingest, connection, subject, range(FEW))
        few = await apply(ingest, connection, subject, range(FEW, 2 * FEW))
        many = await apply(ingest, connection, subject, range(2 * FEW, 2 * FEW + MANY))
    more = MANY - FEW
    return Cost(many[0], round((many[1] - few[1]) / more, 1), round((many[2] - few[2]) / more, 1))


async def test_a_batch_costs_no_more_than_it_did(ingest_pool: Pool) -> None:
    found = await cost(ingest_pool)

    assert found.excess() == [], found
    assert found.statements == STATEMENTS, "fewer than the limit: lower it"


async def one_more_statement(patch: pytest.MonkeyPatch) -> None:
    original = services.ingest.store.record_batch

    async def wasteful(connection: Connection, *given: Any, **named: Any) -> None:
        await connection.fetchval("SELECT 1")
        await original(connection, *given, **named)

    patch.setattr(services.ingest.store, "record_batch", wasteful)


async def five_more_calls(patch: pytest.MonkeyPatch) -> None:
    def wasteful(source: str, request_id: str) -> bytes:
        key = event_key(source, request_id)
        _ = key.hex(), key.hex(), key.hex(), key.hex(), key.hex()
        return key

    patch.setattr(services.ingest.sweeping, "event_key", wasteful)


async def identities_twice(patch: pytest.MonkeyPatch) -> None:
    add = Guard.add

    async def wasteful(self: Guard, connection: Connection, identities: bytes) -> None:
        tx = connection.transaction()
        await tx.start()
        await add(self, connection, identities)
        await tx.rollback()
        await add(self, connection, identities)

    patch.setattr(Guard, "add", wasteful)


@pytest.mark.parametrize(
    ("waste", "named"), [(one_more_statement, "statements"), (five_more_calls, "calls"), (identities_twice, "WAL")]
)
async def test_a_waste_is_noticed(ingest_pool: Pool, monkeypatch: pytest.MonkeyPatch, waste: Any, named: str) -> None:
    await waste(monkeypatch)

    assert any(line.startswith(named) for line in (await cost(ingest_pool)).excess())


async def test_a_batch_of_new_owners_is_stored_by_one_copy(ingest_pool: Pool) -> None:
    """As after a start: they are asked for, and the batch is gone over again. Who is nobody is held as ever."""
    ingest = Ingest(ingest_pool)
    owners = [str(await make_subscription(ingest_pool)) for _ in range(4)]
    sent = [record(structured(id=f"new-{n}", subject=owner), offset=n) for n, owner in enumerate([*owners, str(uuid4())] * 2)]  # fmt: skip
    async with transaction(ingest_pool) as connection:
        await ingest.positions.create(connection, "usage.events", 0, 0)
        position = await ingest.positions.lock(connection, "usage.events", 0)
        assert position is not None
        with counting_statements() as statements:
            await ingest.batch(connection, Slice(position, sent))

    assert sum(statement.startswith('COPY "usage_logs"') for statement in statements) == 1
    assert await ingest_pool.fetchval("SELECT count(*) FROM usage_logs") == 8
    assert await ingest_pool.fetchval("SELECT count(*) FROM held_events") == 2
