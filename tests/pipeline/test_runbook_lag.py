"""docs/runbooks/lag-grows.md, its two ways out: more workers, and more partitions for them, with usage on both sides of the change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from services.cli.demo.sending import synthetic
from services.cli.demo.verdict import compare, count
from services.cli.demo.world import read_world, sign_up
from tests.documentation import blocks_of, commands_of
from tests.pipeline.running import PARTITIONS, Pipeline, workers

PAGE: Final = Path(__file__).parents[2] / "docs" / "runbooks" / "lag-grows.md"
EVENTS: Final = 2_000


def commands() -> list[list[str]]:
    """Return the words of the page's commands, without `tallystick`."""
    blocks = blocks_of(PAGE.read_text(encoding="utf-8"))
    return [words[1:] for block in blocks for words in commands_of(block.body)]


async def test_more_partitions_and_workers_take_over_and_everything_is_counted_once(pipeline: Pipeline) -> None:
    _look, up, grow, prove = commands()
    sent = synthetic(
        await read_world(pipeline.environ["DATABASE_URL"]), EVENTS, 11, datetime.now(UTC) - timedelta(seconds=1)
    )
    records = list(sent.records())
    async with pipeline.running(*workers(ingest=1)):
        await pipeline.publish(records[: EVENTS // 2])
        while await stored(pipeline) < EVENTS // 3:  # noqa: ASYNC110 (another process does it)
            await asyncio.sleep(0.1)
    said = await pipeline.command(*grow)
    assert f"usage.events grew from {PARTITIONS} to 16 partitions" in said
    await pipeline.publish(records[EVENTS // 2 :])
    async with pipeline.pool.acquire() as connection:
        await sign_up(connection, sent.latecomers)
    assert up[:2] == ["up", "--ingest"]
    async with pipeline.running(*workers(ingest=int(up[2]), aggregator=1, billing=1)):
        await pipeline.caught_up()
    assert await pipeline.pool.fetchval("SELECT count(*) FROM ingest_positions WHERE partition >= $1", PARTITIONS) > 0
    assert "checks hold" in await pipeline.command(*prove)
    async with pipeline.pool.acquire() as connection:
        counted = await count(connection, sent.sources)
        checks = await compare(connection, sent.sources, sent.expected, counted, stored_before=0)
    assert [str(check) for check in checks if not check.holds] == []


async def stored(pipeline: Pipeline) -> int:
    return int(await pipeline.pool.fetchval("SELECT coalesce(sum(inserted), 0) FROM ingest_positions"))
