"""Workers die, come and go at any moment: still every event is counted exactly once."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Final

from services.cli.demo.sending import Sending, synthetic
from services.cli.demo.verdict import compare, count
from services.cli.demo.world import read_world, sign_up
from services.cli.supervisor import Supervisor
from tests.pipeline.running import PARTITIONS, Pipeline, until_synced, workers

KILLS: Final = 20


async def sending(pipeline: Pipeline, events: int, seed: int) -> Sending:
    """Traffic of every kind, for the customers of the seed."""
    world = await read_world(pipeline.environ["DATABASE_URL"])
    return synthetic(world, events, seed, datetime.now(UTC) - timedelta(seconds=1))


async def differences(pipeline: Pipeline, sent: Sending) -> list[str]:
    """What was sent and is not stored, or the other way round; and what reconciliation finds."""
    async with pipeline.pool.acquire() as connection:
        counted = await count(connection, sent.sources)
        checks = await compare(connection, sent.sources, sent.expected, counted, stored_before=0)
    return [str(check) for check in [*checks, *await pipeline.broken_checks()] if not check.holds]


async def kill_at_random_moments(running: Supervisor, rng: random.Random) -> list[str]:
    """SIGKILL a random worker, `KILLS` times; between two of them pass up to two seconds."""
    killed: list[str] = []
    while len(killed) < KILLS:
        await asyncio.sleep(rng.uniform(0.2, 1.8))  # the moment is the experiment, nothing is waited for
        if alive := running.running:
            killed.append(rng.choice(alive))
            running.kill(killed[-1])
    return killed


async def test_every_event_is_counted_once_though_workers_are_killed_twenty_times(pipeline: Pipeline) -> None:
    rng = random.Random(20)
    sent = await sending(pipeline, 24_000, seed=20)
    async with pipeline.running(*workers(ingest=2, aggregator=1, billing=1)) as running:
        publishing = asyncio.create_task(pipeline.publish(sent.records(), rate=1_000))
        killed = await kill_at_random_moments(running, rng)
        async with pipeline.pool.acquire() as connection:
            await sign_up(connection, sent.latecomers)
        await publishing
        await running.wait_until_ready(60)
        await pipeline.caught_up()

    assert len(killed) == KILLS
    assert running.restarts.total() == KILLS
    assert await differences(pipeline, sent) == []


async def test_two_workers_share_the_partitions_and_one_takes_over_when_the_other_leaves(pipeline: Pipeline) -> None:
    sent = await sending(pipeline, 12_000, seed=2)
    first, second, *others = workers(ingest=2, aggregator=2, billing=1)
    async with pipeline.running(first, *others):
        publishing = asyncio.create_task(pipeline.publish(sent.records(), rate=1_500))
        await until_synced(first, PARTITIONS)
        async with pipeline.running(second):
            await until_synced(second, PARTITIONS // 2)
            await until_synced(first, PARTITIONS // 2)
        await until_synced(first, PARTITIONS)
        async with pipeline.pool.acquire() as connection:
            await sign_up(connection, sent.latecomers)
        await publishing
        await pipeline.caught_up()

    assert await differences(pipeline, sent) == []
