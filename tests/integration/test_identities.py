"""Identities: guarded at any age, in generations of which only the newest is written to."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from deploy.migrate import DIRECTORY, migrate
from services.ingest.acceptance import Reason
from services.ingest.log import Inserted, UsageLog
from services.ingest.partitions.ahead import IdentityGenerations
from services.ingest.recent import RecentEvents
from services.ingest.rows import COLUMNS
from shared.clock import FixedClock
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Connection, Pool, connect, transaction
from tests.integration.test_ingest_store import event_row, outcome
from tests.unit.ingest.events import NOW
from tests.unit.ingest.facts import candidate

HALF_YEAR, GUARDED = timedelta(days=183), timedelta(days=400)


@pytest_asyncio.fixture
async def pool(database_pool: Pool) -> AsyncIterator[Pool]:
    """A database whose first generation of identities began now."""
    await database_pool.execute("UPDATE usage_id_generations SET begun_at = $1", NOW)
    yield database_pool


async def turn(pool: Pool, days: int) -> None:
    """What the timer does, so many days from now."""
    await IdentityGenerations(pool, FixedClock(NOW + timedelta(days=days)), HALF_YEAR, GUARDED)()


async def insert(pool: Pool, *rows: Any, connection: Connection | None = None) -> Inserted:
    """Store rows as a worker that remembers nothing."""
    log, candidates = UsageLog(pool, RecentEvents()), [candidate(row, offset=n) for n, row in enumerate(rows)]
    if connection is not None:
        return await log.insert(connection, candidates, uuid7())
    async with transaction(pool) as own:
        return await log.insert(own, candidates, uuid7())


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = await connect(url, application_name="tests")
    try:
        yield connection
    finally:
        await connection.close()


async def generations(pool: Pool) -> list[int]:
    return [
        row["generation"] for row in await pool.fetch("SELECT generation FROM usage_id_generations ORDER BY generation")
    ]


async def test_an_identity_is_known_through_all_generations(pool: Pool) -> None:
    for number, days in enumerate((0, 100, 183, 366, 549)):
        await turn(pool, days)
        assert outcome(await insert(pool, event_row(number))) == (1, 0, [])

    assert await generations(pool) == [1, 2, 3, 4]
    moved = [event_row(n, created_at=NOW - timedelta(days=n)) for n in range(1, 5)]
    assert outcome(await insert(pool, *map(event_row, range(6)), *moved)) == (1, 5, [Reason.CONFLICT] * 4)
    assert await pool.fetchval("SELECT count(*) FROM usage_logs") == 6


async def test_writers_are_told_the_one_open_generation(pool: Pool) -> None:
    assert tuple(await pool.fetchrow("SELECT generation, earlier FROM write_usage_ids()")) == (1, False)
    with pytest.raises(asyncpg.UniqueViolationError, match="one_open"):
        await pool.execute("SELECT begin_usage_id_generation(9::smallint, now())")
    await turn(pool, 183)
    assert tuple(await pool.fetchrow("SELECT generation, earlier FROM write_usage_ids()")) == (2, True)


async def test_a_generation_is_closed_once_by_two_workers_at_once(pool: Pool) -> None:
    await asyncio.gather(*(turn(pool, 183) for _ in range(4)))

    assert await generations(pool) == [1, 2]


async def test_a_generation_begins_while_somebody_reads_identities_for_long(pool: Pool) -> None:
    async with pool.acquire() as reader, reader.transaction():
        await reader.fetchval("SELECT count(*) FROM usage_ids")
        await turn(pool, 183)

    assert await generations(pool) == [1, 2]


async def test_nobody_guards_for_less_than_is_promised(pool: Pool) -> None:
    with pytest.raises(asyncpg.RaiseError, match="400 days at least"):
        await pool.execute("SELECT keep_usage_ids(now(), '1 day', '399 days')")


async def test_a_generation_stays_open_while_a_batch_writes_to_it(pool: Pool) -> None:
    """Else the next batch, which writes to a new one, would not see what this one is about to store."""
    async with pool.acquire() as first:
        tx = first.transaction()
        await tx.start()
        assert outcome(await insert(pool, event_row(1), connection=first)) == (1, 0, [])
        turning = asyncio.create_task(turn(pool, 183))
        while not await pool.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ):
            pass
        second = asyncio.create_task(insert(pool, event_row(1, created_at=NOW - timedelta(days=9)), event_row(2)))
        await asyncio.sleep(0)
        assert await generations(pool) == [1]
        await tx.commit()

    await turning
    assert outcome(await second) == (1, 0, [Reason.CONFLICT])
    assert await generations(pool) == [1, 2]


async def test_a_generation_is_dropped_when_it_has_guarded_long_enough_and_its_rows_are_gone(pool: Pool) -> None:
    await insert(pool, event_row(1))
    await turn(pool, 183)
    await insert(pool, event_row(2))

    await turn(pool, 183 + 398)  # begins another one
    await turn(pool, 183 + 399)
    assert await generations(pool) == [1, 2, 3], "too young"
    await turn(pool, 183 + 401)
    assert 1 in await generations(pool), "its row is in the log"
    await pool.execute("DROP TABLE usage_logs_2026_11")
    await turn(pool, 183 + 401)
    assert 1 not in await generations(pool)
    assert await pool.fetchval("SELECT count(*) FROM usage_ids") == 1


async def test_an_identity_whose_row_is_archived_still_guards(pool: Pool) -> None:
    august = NOW - timedelta(days=90)
    await insert(pool, event_row(1, created_at=august))
    await pool.execute("DROP TABLE usage_logs_2026_08")  # as archiving does in the end

    result = await insert(pool, event_row(1), event_row(2))

    assert outcome(result) == (1, 0, [Reason.CONFLICT])
    assert f"created_at: {august.isoformat()} was stored" in result.refused[0][1].detail


async def test_a_row_that_nobody_guards_is_still_found_at_its_own_time_and_can_be_guarded(pool: Pool) -> None:
    await insert(pool, event_row(1), event_row(2))
    await pool.execute("DELETE FROM usage_ids")

    assert outcome(await insert(pool, event_row(1), event_row(3))) == (1, 1, [])
    assert await pool.fetchval("SELECT guard_usage_ids($1)", NOW) == 2
    assert await pool.fetchval("SELECT guard_usage_ids($1)", NOW) == 0
    assert outcome(await insert(pool, event_row(1, created_at=NOW))) == (0, 0, [Reason.CONFLICT])


async def test_what_was_stored_before_there_were_identities_is_guarded_by_the_migration(
    empty_database: str, tmp_path: Path
) -> None:
    for path in DIRECTORY.glob("*.sql"):
        if path.name < "0011":
            shutil.copy(path, tmp_path)
    await migrate(empty_database, directory=tmp_path)
    twice = event_row(1, created_at=NOW - timedelta(days=40))
    async with _connected(empty_database) as connection:
        for month in (NOW, twice.created_at):
            await connection.execute("SELECT ensure_usage_partition($1)", month)
        rows = [event_row(1), event_row(2)]
        await connection.copy_records_to_table("usage_logs", records=rows, columns=COLUMNS)
        await connection.copy_records_to_table("usage_logs", records=[twice], columns=COLUMNS)  # as it could be then
    await migrate(empty_database)

    async with _connected(empty_database) as connection:
        guarded = await connection.fetch("SELECT id, created_at FROM usage_ids ORDER BY id")
        assert {tuple(row) for row in guarded} == {(row.id, row.created_at) for row in rows}
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO usage_ids SELECT $1, id, NULL, 1 FROM usage_ids", NOW)


async def test_the_months_of_identities_are_those_of_their_rows(pool: Pool) -> None:
    """A restored month guards what a dropped generation no longer did."""
    await insert(pool, event_row(1), event_row(2, created_at=NOW - timedelta(days=60)))
    await pool.execute("DELETE FROM usage_ids")

    assert await pool.fetchval("SELECT guard_usage_ids($1)", Period.month_of(NOW).start) == 1
