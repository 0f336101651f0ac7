"""Archives know corrections: what was taken back stays so, and archives from before there were any can be restored."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest

from services.ingest.partitions import parquet, store
from services.ingest.partitions.archive import archive, restore
from services.ingest.partitions.manifest import FORMATS, encode
from shared.ids import uuid7
from shared.period import Period
from shared.postgres import Pool
from tests.integration.aggregator_facts import make_subscription
from tests.integration.ingest_facts import Ingest
from tests.integration.test_partitions import FILE, LATE, LATER
from tests.unit.ingest.events import amend, structured, void

OCTOBER = Period.parse_month("2026-10")
AT = "2026-10-20T10:00:00Z"


@pytest.fixture
async def ingest(database_pool: Pool) -> Ingest:
    """An October of three events, one of them taken back and one amended, of which aggregator and billing have heard."""
    ingest = Ingest(database_pool)
    subject = str(await make_subscription(database_pool))
    events = [structured(id=name, subject=subject, time=AT, data={"request_tokens": 7}) for name in "abc"]
    await ingest.apply_values(*events)
    await ingest.apply_values(void("a"), amend("b", subject=subject, data={"request_tokens": 2, "status_code": 500}))
    await database_pool.execute("INSERT INTO rating_runs (id, kind) VALUES ($1, 'unrated')", run := uuid7())
    await database_pool.execute(
        """WITH heard AS (INSERT INTO aggregator_inbox (batch_id, part, event_count) SELECT batch_id, 0, 1 FROM usage_batches)
           INSERT INTO billing_inbox (batch_id, part, rating_run_id) SELECT batch_id, 0, $1 FROM usage_batches""",
        run,
    )
    return ingest


async def test_corrections_are_archived_and_restored_as_they_were(ingest: Ingest, tmp_path: Path) -> None:
    before = await ingest.stored()
    async with ingest.pool.acquire() as connection:
        manifest = await archive(connection, OCTOBER, tmp_path, now=LATER, late=LATE)
        sums = await connection.fetchrow(
            "SELECT sum(requests) AS requests, sum(errors) AS errors, sum(request_tokens) AS tokens FROM usage_archive_sums"
        )
        assert (tuple(sums), manifest.sums.rows) == ((2, 1, 9), 6)
        assert await connection.fetchval("SELECT sum(rows) FROM usage_archive_batches") == 6
        await restore(connection, tmp_path / FILE)

    assert await ingest.stored() == before
    assert await ingest.adds_up()
    await ingest.apply_values(void("c"), void("a"), void("b", id="void-2"))
    assert [row["reason"] for row in await ingest.quarantined()] == ["conflict", "already_voided"]


async def test_an_archive_from_before_corrections_is_restored(ingest: Ingest, tmp_path: Path) -> None:
    await ingest.pool.execute("DELETE FROM usage_logs WHERE corrects IS NOT NULL")
    before, path = await ingest.stored(), tmp_path / FILE
    async with ingest.pool.acquire() as connection:
        _, digest = await store.sums(connection, OCTOBER, 1)
        manifest = await archive(connection, OCTOBER, tmp_path, now=LATER, late=LATE)
        whole = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(whole.select(list(FORMATS[1])), path)
        changed = {
            "format": 1,
            "schema": FORMATS[1],
            "digest": digest,
            "sha256": parquet.sha256(path),
            "bytes": path.stat().st_size,
        }
        old = msgspec.structs.replace(manifest, **changed)
        path.with_suffix(".manifest.json").write_bytes(encode(old))
        await connection.execute(
            "UPDATE usage_archives SET sha256 = $1, manifest = $2", old.sha256, json.dumps(json.loads(encode(old)))
        )
        assert (await restore(connection, path))[1] is True

    assert await ingest.stored() == before
    assert {row["quantity"] for row in before} == {1}
