"""A log that is filled for a benchmark holds what one that grew by itself would: each row with its identity, summed up and rated once."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import fill
from benchmarks.fill import OPEN_GENERATION, Filled
from benchmarks.running import make_customers
from benchmarks.traffic import insert_owners
from shared.postgres import Pool
from tests.unit.ingest.events import NOW

OWNERS = [str(uuid.UUID(int=number)) for number in range(1, 21)]


async def filled(url: str, pool: Pool, *sizes: int) -> None:
    async with pool.acquire() as connection:
        await insert_owners(connection, OWNERS)
        await make_customers(connection, OWNERS, prepaid=False)
    log = await Filled.begin(url, OWNERS, Path.cwd(), lambda _: None, NOW)
    try:
        for size in sizes:
            await log.grow(size)
    finally:
        await log.end()


@pytest.mark.asyncio
async def test_rows_have_identities_in_generations_and_are_summed_up(
    database: str, database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "ROWS_AN_HOUR", 100)
    monkeypatch.setattr(fill, "GENERATION", 1_500)
    await filled(database, database_pool, 1_000, 4_000)
    rows = await database_pool.fetchrow(
        "SELECT count(*), count(i.id), count(DISTINCT l.id) FROM usage_logs l LEFT JOIN usage_ids i USING (id, created_at)"
    )
    assert tuple(rows) == (4_000, 4_000, 4_000)
    generations = await database_pool.fetch("SELECT generation, count(*) FROM usage_ids GROUP BY 1 ORDER BY 1 DESC")
    assert [tuple(one) for one in generations] == [(OPEN_GENERATION, 1_500), (OPEN_GENERATION - 1, 1_500), (OPEN_GENERATION - 2, 1_000)]  # fmt: skip
    used = await database_pool.fetchrow("SELECT count(*), sum(request_tokens), sum(response_tokens) FROM usage_logs")
    for table in (
        *(
            f"{kept} WHERE period_type = '{period}'"
            for kept in ("usage_summaries", "usage_totals")
            for period in ("hour", "day", "month")
        ),
        "usage_hours",
        "(SELECT requests AS request_count, request_tokens, response_tokens FROM rated_usage) r",
    ):
        summed = await database_pool.fetchrow(
            f"SELECT sum(request_count), sum(request_tokens), sum(response_tokens) FROM {table}"  # noqa: S608
        )
        assert tuple(summed) == tuple(used), table
    assert await database_pool.fetchval("SELECT repair_usage_totals()") == 0, "totals are the sums, by period and model"


@pytest.mark.asyncio
async def test_a_disk_without_room_is_told_before_anything_is_written(
    database: str, database_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    with pytest.raises(SystemExit, match=r"100,000,000 rows need 47 GiB, and .* has 1 GiB free: make room"):
        await filled(database, database_pool, 100_000_000)
    assert await database_pool.fetchval("SELECT count(*) FROM usage_logs") == 0
