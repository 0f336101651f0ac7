"""The database is lost: a backup brings it back, and the pipeline reads by itself from Kafka what came later."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from services.cli.demo.sending import synthetic
from services.cli.demo.verdict import compare, count
from services.cli.demo.world import read_world, sign_up
from shared.postgres import create_pool
from tests.pipeline.running import Pipeline, workers

EVENTS = 4_000
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "restore-from-backup.md"


def steps(directory: Path, backup: str) -> list[list[str]]:
    """The commands of the runbook as they are written, with this directory and this backup in the place of its examples."""
    blocks = re.findall(r"^```\ntallystick (.*?)\n```$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        command.replace("/var/backups/tallystick", str(directory)).replace("BACKUP", backup).split()
        for command in blocks
    ]


async def lose(url: str) -> None:
    """Destroy a database under those that use it, and make an empty one of that name."""
    parts = urlsplit(url)
    name = parts.path.removeprefix("/")
    server = await asyncpg.connect(parts._replace(path="/postgres").geturl())
    try:
        await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    finally:
        await server.close()


async def test_a_restored_database_catches_up_from_kafka_until_the_books_are_exact(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    here = tmp_path / "backups"
    url = pipeline.environ["DATABASE_URL"]
    world = await read_world(url)
    sent = synthetic(world, EVENTS, 7, datetime.now(UTC) - timedelta(seconds=1))
    async with pipeline.running(*workers(ingest=1, aggregator=1, billing=1)):
        records = list(sent.records())
        half = len(records) // 2
        publishing = asyncio.create_task(pipeline.publish(records[:half], rate=1_500))
        made = json.loads(await pipeline.command("backup", "create", "--directory", str(here), "--json"))
        await publishing
        before = await pipeline.pool.fetchval("SELECT coalesce(sum(inserted), 0) FROM ingest_positions")
        await pipeline.publish(records[half:])  # after the backup: this has to be caught up with
        stored = before
        async with asyncio.timeout(60):
            while stored < before + half // 2:
                stored = await pipeline.pool.fetchval("SELECT coalesce(sum(inserted), 0) FROM ingest_positions")
                await asyncio.sleep(0.05)
        await lose(url)  # the workers run on, without a table to write to

    to_list, to_restore, to_prove = steps(here, Path(made["path"]).name)
    assert made["path"] in await pipeline.command(*to_list)
    assert "restored, counted and reconciled" in await pipeline.command(*to_restore)
    pool = await create_pool(url, application_name="tests")
    try:
        restored = Pipeline(pipeline.environ, pipeline.kafka, pool, pipeline.logs)
        before = await pool.fetchval("SELECT sum(inserted) FROM ingest_positions")
        assert before < stored, "something has to be caught up with"
        async with pool.acquire() as connection:
            await sign_up(connection, sent.latecomers)
        async with restored.running(*workers(ingest=1, aggregator=1, billing=1)):
            await restored.caught_up()
        assert "checks hold" in await pipeline.command(*to_prove)
        async with pool.acquire() as connection:
            counted = await count(connection, sent.sources)
            checks = await compare(connection, sent.sources, sent.expected, counted, stored_before=0)
        assert [str(check) for check in [*checks, *await restored.broken_checks()] if not check.holds] == []
    finally:
        await pool.close()
